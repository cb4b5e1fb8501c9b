"""The API against its own OpenAPI document: schemathesis makes requests up, and nothing undocumented may come back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from relay.console.api import routes
from tests.browser.stand import furnish, standing

EXAMPLES = os.environ.get("API_EXAMPLES", "1")
PHASES = "fuzzing" if EXAMPLES == "1" else "examples,coverage,fuzzing"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(600)
async def test_every_answer_is_documented_and_none_is_a_fault_of_ours(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        await furnish(stand)
        scopes = ["read", "queue", "accounts", "admin"]
        token = (await stand.act("token.add", name="schemathesis", scopes=scopes))["token"]
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=stand.base, trust_env=False, headers=headers) as web:
            document = (await web.get("/api/v1/openapi.json")).json()
            shapes = {"accounts": "Account", "queue": "Delivery", "users": "User", "audit": "AuditEntry", "keys": "Key"}
            for path, schema in shapes.items():
                first = (await web.get(f"/api/v1/{path}")).json()[0]
                assert set(document["components"]["schemas"][schema]["required"]) <= set(first), schema
        file = tmp_path / "openapi.json"
        file.write_text(json.dumps(document))
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("st")), "run", str(file), "--url", stand.base),
            *("-H", f"Authorization: Bearer {token}", "--max-examples", EXAMPLES, "--phases", PHASES),
            *("--checks", CHECKS, "--generation-deterministic", "--no-color", "--continue-on-failure"),
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, "\n".join(line[:300] for line in said.splitlines())[-8000:]
        assert f"{operations(document)} selected" in said
        assert token not in json.dumps(stand.daemon.events)


def operations(document: dict[str, dict[str, dict[str, object]]]) -> int:
    return sum(len(methods) for methods in document["paths"].values())


def test_a_client_can_be_made_of_the_document() -> None:
    """Every operation has a name of its own, a login, and an answer with a shape."""
    app = FastAPI()
    app.include_router(routes.router, prefix="/api/v1")
    document = routes.document(app)
    assert document["security"] == [{"bearerAuth": []}]
    assert document["components"]["securitySchemes"]["bearerAuth"]["scheme"] == "bearer"
    every = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in every]
    assert len(set(names)) == len(names)
    texts = [one["schema"] for operation in every for one in operation.get("parameters", ()) if one["in"] == "query"]
    texts = [kind for schema in texts for kind in schema.get("anyOf", [schema]) if kind.get("type") == "string"]
    assert {kind["maxLength"] for kind in texts} == {4096}  # so that a request is within the head that is read of it
    for operation in every:
        assert {"400", "401", "403", "404", "409", "422", "429", "503"} <= set(operation["responses"])
        assert "HTTPValidationError" not in json.dumps(operation)
    assert json.dumps(document).count("#/components/schemas/Account") >= 2
