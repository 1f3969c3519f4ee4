"""What a folder that train, init or trace left says: budget, ranks, scales, updates, losses."""

from tlora_ref.reports.losses import loss_lines, losses_said
from tlora_ref.reports.page import html_page
from tlora_ref.reports.summary import ModuleFacts, Summary, summarize
from tlora_ref.reports.tables import by_kind, by_layer

__all__ = ["ModuleFacts", "Summary", "by_kind", "by_layer", "html_page", "loss_lines", "losses_said", "summarize"]
