"""Commands for the schema of the database: `dicom-node db`."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node import schema
from dicom_node.cli_options import ANSWER_IS_NO, AsJson, the_config
from dicom_node.cli_output import console, print_done, print_json
from dicom_node.db import make_engine

app = typer.Typer(no_args_is_help=True, help="The database schema.")


@app.command("upgrade")
def upgrade(
    revision: Annotated[str, typer.Argument(help="A revision; default: what this release needs.")] = "head",
    as_json: AsJson = False,
) -> None:
    """Bring the schema to this release (or to a revision)."""
    engine = make_engine(the_config().database)
    schema.upgrade(engine, revision)
    print_done({"done": "the schema is ready", "revision": schema.current(engine)}, as_json=as_json)


@app.command("downgrade")
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision; `base` is the empty database.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Rows of tables that go are lost: say that this is meant.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take the schema back to a revision. Rows of the tables that go are lost."""
    if not yes:
        raise typer.BadParameter("this deletes rows for good; add --yes if it is meant")
    engine = make_engine(the_config().database)
    schema.downgrade(engine, revision)
    print_done({"done": "the schema was taken back", "revision": schema.current(engine)}, as_json=as_json)


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Compare the database with what this release expects. Exit 3 when they differ."""
    engine = make_engine(the_config().database)
    have, need, differences = schema.current(engine), schema.newest(engine), schema.drift(engine)
    if as_json:
        print_json({"revision": have, "needs": need, "drift": differences})
    else:
        needed = "as this release needs it" if have == need else f"but this release needs {need}"
        console.print("\n".join([f"revision {have}, {needed}", *differences]), markup=False)
    if differences or have != need:
        raise typer.Exit(ANSWER_IS_NO)
