"""What is inside a case's zip: the members' names, their JSON, and how they fit a model."""
