"""The protocol of `docs/protocol.md` as a model, and every state that it can reach."""
