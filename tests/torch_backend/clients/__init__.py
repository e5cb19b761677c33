"""Clients of torch.distributed as they are: each module's checks run in real processes, over the backend that is named."""
