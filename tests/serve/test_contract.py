"""The OpenAPI document: whole, with examples that keep it, and kept by the service whatever is sent."""

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from oodline.serve import ServeSettings, create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def document(guard):
    return create_app(guard, None, ServeSettings(), token="secret").openapi()


PATHS = (
    ("POST", "/v1/predict"),
    ("POST", "/v1/explain"),
    ("GET", "/v1/info"),
    ("GET", "/v1/histogram"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
)


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("valid", [True, False])
def test_whatever_is_sent_the_answer_is_one_of_those_that_are_documented(client, method, path, valid):
    api = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE
    sent = 0

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(api[path][method].as_strategy(generation_mode=mode))
    def answered_as_documented(case):
        nonlocal sent
        sent += 1
        case.call_and_validate(checks=CHECKS)

    try:
        answered_as_documented()
    except Unsatisfiable:
        assert not valid  # what takes nothing cannot be given something wrong
    else:
        assert sent > 0


def test_these_are_all_paths(document):
    assert {(method.upper(), path) for path, found in document["paths"].items() for method in found} == set(PATHS)


def test_every_path_documents_success_and_every_refusal_with_examples(document):
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert "200" in operation["responses"]
            refusals = {code: r for code, r in operation["responses"].items() if code != "200"}
            if path.startswith("/v1") or path == "/metrics":
                assert "401" in refusals
                assert operation["security"]
            for refusal in refusals.values():
                [(kind, content)] = refusal["content"].items()
                assert kind == "application/problem+json"
                assert content["schema"]["$ref"].endswith("/ProblemDocument")
                assert content["examples"]
    codes = set(document["paths"]["/v1/predict"]["post"]["responses"])
    assert codes == {"200", "400", "401", "403", "408", "413", "415", "421", "422", "431", "500", "503", "504"}


def test_every_example_keeps_its_schema(document):
    schemas, checked = document["components"]["schemas"], 0

    def check(value, schema):
        nonlocal checked
        whole = {**schema, "components": document["components"]}
        jsonschema_rs.validate(whole, value)
        checked += 1

    for found in schemas.values():
        for example in found.get("examples", []):
            check(example, found)
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    for example in content.get("examples", {}).values():
                        check(example["value"], content["schema"])
    assert checked > 30
