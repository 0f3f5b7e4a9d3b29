"""What requests carry into the worker: the lines M of docs/compatibility.md."""

from __future__ import annotations

from tests.e2e.support import Client

from .support import check


def test_cell_id_and_metadata_reach_the_cell(client: Client) -> None:
    """M2: `cellId` of the request's metadata reaches `run_cell`; the rest is the parent's."""
    setup = client.run(
        "seen = []\nget_ipython().events.register('pre_run_cell', lambda i: seen.append(i.cell_id))"
    )
    assert setup.status == "ok"
    content = {"code": "meta = get_ipython().get_parent()['metadata']", "silent": False}
    metadata = {"cellId": "c-1", "tags": ["x"]}
    message = client.kc.session.msg("execute_request", content, metadata=metadata)
    client.kc.session.send(client.kc.shell_channel.socket, message)
    client.outputs(message["header"]["msg_id"])
    check(client, "seen[0] == 'c-1' and meta == {'cellId': 'c-1', 'tags': ['x']}")


def test_globals_of_front_ends_are_left_alone(client: Client) -> None:
    """M2: `__vsc_ipynb_file__`, which VS Code sets, stays, and is no name of the user's."""
    outcome = client.run("__vsc_ipynb_file__ = '/a/b.ipynb'", store_history=False, silent=True)
    assert outcome.status == "ok"
    check(client, "__vsc_ipynb_file__ == '/a/b.ipynb'")
    check(client, "'__vsc_ipynb_file__' not in get_ipython().run_line_magic('who_ls', '')")
