"""What is said of a candidate: findings, the report of a comparison, the report of the kit."""
