"""The OpenAPI document is valid, complete, and shown by a page that needs nothing from elsewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
from door_support import Doors
from openapi_spec_validator import validate

VERBS = ("get", "post", "delete")


@pytest.fixture
def document(doors: Doors) -> dict[str, Any]:
    answer = doors.client.get("/openapi.json")
    assert answer.content_type == "application/json"
    return dict(answer.json)


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{verb.upper()} {path}": item[verb]
        for path, item in document["paths"].items()
        for verb in VERBS
        if verb in item
    }


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_every_native_route_and_health_are_in_it_and_no_other(doors: Doors, document: dict[str, Any]) -> None:
    routes = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"
        for rule in doors.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(("/api/v1/", "/healthz/"))
    }
    assert set(operations(document)) == routes
    assert len(routes) == 15


def test_every_operation_says_what_it_does_and_how_it_refuses(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation["summary"], name
        assert operation["tags"] in (["tasks"], ["server"]), name
        for status in ("422", "default"):
            assert "application/problem+json" in operation["responses"][status]["content"], name


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    parameters = [
        parameter for operation in operations(document).values() for parameter in operation.get("parameters", ())
    ]
    assert parameters
    assert not [parameter["name"] for parameter in parameters if not parameter.get("description")]


def test_the_form_of_a_submission_has_files_and_texts(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/tasks"]["post"]["requestBody"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert body["required"]
    assert schema["required"] == ["model"]
    assert schema["properties"]["case"]["format"] == "binary"
    assert schema["properties"]["image"]["items"] == {"type": "string", "format": "binary"}
    texts = {"model", "parameters", "priority", "scaling_factor", "points", "outputs"}
    assert set(schema["properties"]) == {*texts, "case", "image"}


def test_readiness_is_described_with_both_of_its_answers(document: dict[str, Any]) -> None:
    responses = document["paths"]["/healthz/ready"]["get"]["responses"]
    for status in ("200", "503"):
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/HealthReport"}
    assert document["components"]["schemas"]["HealthReport"]["required"] == ["ready", "checks"]


def test_each_tag_is_described_once(document: dict[str, Any]) -> None:
    assert [(tag["name"], bool(tag["description"])) for tag in document["tags"]] == [("tasks", True), ("server", True)]


def test_a_result_is_a_zip(document: dict[str, Any]) -> None:
    responses = document["paths"]["/api/v1/tasks/{uid}/result"]["get"]["responses"]
    assert list(responses["200"]["content"]) == ["application/zip"]


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_and_all_it_loads_come_from_this_server(doors: Doors, path: str) -> None:
    page = doors.client.get(path)
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    assert "//" not in page.text
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert doors.client.get(link, buffered=True).status_code == 200, link
    assert 'data-document="/openapi.json"' in page.text


def test_the_page_forbids_the_browser_to_load_anything_from_elsewhere(doors: Doors) -> None:
    policy = doors.client.get("/docs").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "*" not in policy


def test_the_interface_asks_no_validator_on_the_internet(doors: Doors) -> None:
    script = doors.client.get("/docs/start.js").text
    assert "validatorUrl: null" in script
    assert "http" not in script


def test_its_style_sheet_loads_nothing_from_elsewhere(doors: Doors) -> None:
    style = doors.client.get("/docs/assets/css/swagger-ui.css", buffered=True).text
    assert not [url for url in re.findall(r"url\(([^)]*)\)|@import", style) if url and "data:" not in url]


def test_no_other_file_is_served_from_there(doors: Doors) -> None:
    assert doors.client.get("/docs/assets/../../__init__.py").status_code == 404
    assert doors.client.get("/docs/assets/%2e%2e/%2e%2e/plugins.py").status_code == 404


def test_a_token_is_needed_but_for_health_and_given_in_two_ways(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {name: (scheme["type"], scheme["scheme"]) for name, scheme in schemes.items()} == {
        "bearer": ("http", "bearer"),
        "basic": ("http", "basic"),
    }
    for name, operation in operations(document).items():
        expected = None if "/healthz/" in name else [{"bearer": []}, {"basic": []}]
        assert operation.get("security") == expected, name
