"""The ServerApp that Flower loads."""

from pathlib import Path

from cwmp.flower.server import server_app

app = server_app(Path(__file__).parent)
