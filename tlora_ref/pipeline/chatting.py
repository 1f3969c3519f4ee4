"""A conversation of several turns with a model."""

from __future__ import annotations

import json
from pathlib import Path

from tlora_ref.data import Row, encode_prompt, sample_form
from tlora_ref.data.templates import CHAT
from tlora_ref.errors import ConfigError, OutputError
from tlora_ref.files import write_text
from tlora_ref.pipeline.responding import OnText, Responder, Response

Message = dict[str, str]


class Chat:
    """A conversation, under the tokenizer's chat template.

    Attributes
    ----------
    messages : {"role", "content"}, as `save` writes them
    system : the system message, which `reset` keeps

    Raises
    ------
    DataError
        if the tokenizer has no chat template.
    """

    def __init__(self, responder: Responder, system: str | None = None) -> None:
        responder.tokenizer.template()
        self.responder, self.system = responder, system
        self.messages: list[Message] = []
        self._saved: set[Path] = set()
        self.reset()

    def reset(self) -> None:
        """Everything said is forgotten, the system message kept."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    @property
    def turns(self) -> int:
        """How many times the model has answered."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def say(self, text: str, on_text: OnText | None = None) -> Response:
        """The model's answer, which becomes part of the conversation together with `text`.

        Raises
        ------
        DataError
            if the conversation leaves no room in the model's context, or the template refuses it; it is as before.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        row = Row("messages", {"messages": [*asked, {"role": "assistant", "content": ""}]}, "the conversation")
        responder = self.responder
        prompt = encode_prompt(row, responder.tokenizer, CHAT, sample_form(responder.model))
        responder.room(prompt, row.where)
        response = responder.respond(prompt, on_text, number=self.turns)
        self.messages = [*asked, {"role": "assistant", "content": response.text}]
        return response

    def save(self, path: str | Path) -> None:
        """The conversation as a row that `load_dataset` reads, {"messages": [...]} in one line.

        Raises
        ------
        ConfigError, OutputError
            if nothing was said; if the file is there and not this conversation's, or cannot be written.
        """
        file = Path(path)
        if not self.turns:
            raise ConfigError("nothing was said yet, so there is nothing to save")
        if file.exists() and file.resolve() not in self._saved:
            raise OutputError(f"{file}: is there already. Choose another name")
        try:
            write_text(file, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"{file}: cannot be written ({error.strerror or error})") from error
        self._saved.add(file.resolve())
