"""What a person looks at a group with, on the command line."""
