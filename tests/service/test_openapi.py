"""The OpenAPI document is valid, whole and true."""

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.fields import BY_NAME

OPERATIONS = {
    "createVideo",
    "listVideos",
    "retrieveVideo",
    "deleteVideo",
    "cancelVideo",
    "remixVideo",
    "extendVideo",
    "editVideo",
    "upscaleVideo",
    "interpolateVideo",
    "followVideo",
    "downloadVideoContent",
    "createCharacter",
    "retrieveCharacter",
    "deleteCharacter",
    "createFile",
    "listFiles",
    "retrieveFile",
    "deleteFile",
    "downloadFile",
    "listVideoModels",
    "listModels",
    "retrieveModel",
    "getHealth",
    "getReadiness",
    "getMetrics",
}


@pytest.fixture
def document(client):
    """The document as served."""
    return client.get("/openapi.json").json()


def operations(document):
    return [
        (path, method, call)
        for path, calls in document["paths"].items()
        for method, call in calls.items()
    ]


def test_the_document_is_valid_openapi_3_1(document):
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_has_its_name(document):
    assert {call["operationId"] for _, _, call in operations(document)} == OPERATIONS


def test_every_documented_route_exists(document, client):
    for path, method, call in operations(document):
        answer = client.request(
            method,
            path.format(
                video_id="video_" + "0" * 32,
                file_id="file-" + "0" * 32,
                character_id="char_" + "0" * 32,
                model_id="pocket",
            ),
        )
        assert answer.status_code not in (405, 500), path
        assert answer.status_code == 200 or answer.json()["error"]["code"] != "not_found", path
        assert str(answer.status_code) in call["responses"], path


def test_every_refusal_is_documented_with_the_envelope(document):
    for path, _, call in operations(document):
        for status, response in call["responses"].items():
            if status.isdigit() and int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorEnvelope"}, (path, status)


def test_the_create_body_is_documented_in_three_encodings(document):
    content = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "application/json",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
    }
    for body in content.values():
        assert set(body["schema"]["properties"]) == set(BY_NAME)
        assert "required" not in body["schema"], "even the prompt depends on the kind of job"


def test_answers_are_as_documented(document, client, hand):
    made = client.post("/v1/videos", json={"prompt": "a fox"}).json()
    schema = document["components"]["schemas"]["Video"]
    assert set(made) == set(schema["properties"]) == set(schema["required"])


def test_keys_are_documented(document):
    create = document["paths"]["/v1/videos"]["post"]
    (name,) = create["security"][0]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
