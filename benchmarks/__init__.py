"""What is measured against other libraries. Not in the wheel: needs a checkout and the dependency group `bench`."""
