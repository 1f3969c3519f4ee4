"""One file a stage of the kit: how its cases are drawn, and what each is for."""
