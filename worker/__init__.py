"""The GPU side: supervisor, inference child, janitor; and the counter both sides share."""
