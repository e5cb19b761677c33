"""`collcomm plan`: what collectives will cost on a network described in a file, and a picture of it."""
