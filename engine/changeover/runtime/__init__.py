"""What acts: Trio tasks and the ports through which they touch the world."""
