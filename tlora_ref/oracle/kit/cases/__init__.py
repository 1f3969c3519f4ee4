"""One file a stage of the kit: how its cases are drawn, and what each is for."""

#: What the cases of a check are in turn: more rows than columns, fewer, as many.
FORMS = ("tall", "wide", "square")
