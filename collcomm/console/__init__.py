"""What people look at: the state of a group while it runs, what is wrong between here and its coordinator, reports of dumps."""
