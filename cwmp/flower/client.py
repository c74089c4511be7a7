"""The ClientApp: one message in, one message out. What happens between is ``node.serve``.

On a real node every message is a new process. A question that needs no training imports none of it.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from calibration_data import UsageError
from cwmp.flower.messages import PARTITION, answer_content, node_content, read_task, refusal_content
from cwmp.flower.protocol import Refusal


def client_app(folder: Path) -> ClientApp:
    """The ClientApp of a run.

    Args:
        folder: of the app's modules and settings.
    """
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return Message(node_content(context.node_config.get(PARTITION)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(_train(folder, message, context), reply_to=message)

    return app


def _train(folder: Path, message: Message, context: Context) -> RecordDict:
    from cwmp.flower.node import serve  # imports all that training needs

    try:
        task, weights = read_task(message.content)
    except UsageError as error:
        return refusal_content(Refusal(cause="invalid", reason=error.message))
    answer = serve(folder, context.node_config, task, weights)
    return refusal_content(answer) if isinstance(answer, Refusal) else answer_content(*answer)
