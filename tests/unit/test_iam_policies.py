"""The policies in docs/iam: well formed, as tight as IAM can have them, and no more than what is called."""

from __future__ import annotations

import json
import re

import pytest

from tests import iam

POLICIES = [iam.PERSON, iam.JOB_ROLE]
LIMIT = 6144  # characters of a managed policy, white space not counted: "IAM and AWS STS quotas"
ACTION = re.compile(r"[a-z0-9]+:[A-Z][A-Za-z0-9]+")  # no wildcard
ARN = re.compile(r"arn:aws:(?P<rest>[a-z0-9]+:(REGION)?:(ACCOUNT|763104351884)?:.+)")


@pytest.mark.parametrize("name", [*POLICIES, iam.TRUST])
def test_a_policy_is_one(name: str) -> None:
    from moto.iam.policy_validation import IAMPolicyDocumentValidator, IAMTrustPolicyDocumentValidator

    validator = IAMTrustPolicyDocumentValidator if name == iam.TRUST else IAMPolicyDocumentValidator
    text = json.dumps(iam.filled(name))
    validator(text).validate()
    assert len(re.sub(r"\s", "", text)) <= LIMIT
    assert re.search(r"\b(ACCOUNT|REGION|BUCKET|KEY)\b", text) is None


@pytest.mark.parametrize("name", POLICIES)
def test_a_statement_says_what_it_allows_and_nothing_unusual(name: str) -> None:
    policy = iam.read_policy(name)
    assert policy.keys() == {"Version", "Statement"} and policy["Version"] == "2012-10-17"
    names = [one["Sid"] for one in iam.statements(policy)]
    assert len(set(names)) == len(names)
    for one in iam.statements(policy):
        assert one.keys() - {"Condition"} == {"Sid", "Effect", "Action", "Resource"}
        assert one["Effect"] == "Allow"
        assert [action for action in one["Action"] if not ACTION.fullmatch(action)] == []


@pytest.mark.parametrize("name", POLICIES)
def test_everything_means_only_what_has_no_resources(name: str) -> None:
    for one in iam.statements(iam.read_policy(name)):
        without = [action for action in one["Action"] if iam.RESOURCES[action] == ()]
        assert without == (one["Action"] if one["Resource"] == "*" else []), one["Sid"]


@pytest.mark.parametrize("name", POLICIES)
def test_resources_are_of_the_type_that_their_actions_are_about(name: str) -> None:
    """A policy that allows an action on the ARN of something else allows nothing, and nobody says so."""
    for one in (one for one in iam.statements(iam.read_policy(name)) if one["Resource"] != "*"):
        rests = [found["rest"] for arn in one["Resource"] if (found := ARN.fullmatch(arn))]
        assert len(rests) == len(one["Resource"]), one["Sid"]
        forms = {form for action in one["Action"] for form in iam.RESOURCES[action]}
        for form in forms:
            assert any(re.fullmatch(form, rest) for rest in rests), (one["Sid"], form)
        for rest in rests:
            assert any(re.fullmatch(form, rest) for form in forms), (one["Sid"], rest)


@pytest.mark.parametrize("name", POLICIES)
def test_resources_are_those_of_videolift(name: str) -> None:
    """But for network interfaces, whose names nobody chooses, and what the place has only one of."""
    shared = re.compile(
        r"arn:aws:(s3:::BUCKET|kms:.*:key/KEY|ec2:.*|ecr:.*:763104351884:repository/tensorflow-training)"
    )
    logs = re.compile(
        r"arn:aws:logs:.*:log-group:/aws/sagemaker/(Training|Processing)Jobs:(\*|log-stream:videolift-\*)"
    )
    own = re.compile(
        r"arn:aws:(s3:::BUCKET/videolift/\*|.*:secret:videolift/\*|.*:(\w+-job|repository)/videolift-\*|iam::ACCOUNT:role/videolift-job)"
    )
    for one in (one for one in iam.statements(iam.read_policy(name)) if one["Resource"] != "*"):
        for arn in one["Resource"]:
            assert shared.fullmatch(arn) or logs.fullmatch(arn) or own.fullmatch(arn), arn


def test_the_role_is_handed_to_sagemaker_only() -> None:
    passing = [one for one in iam.statements(iam.read_policy(iam.PERSON)) if "iam:PassRole" in one["Action"]]
    assert [one["Action"] for one in passing] == [["iam:PassRole"]]
    assert passing[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_the_role_is_taken_by_sagemaker_for_this_account_only() -> None:
    (one,) = iam.statements(iam.filled(iam.TRUST))
    assert (one["Principal"], one["Action"]) == ({"Service": "sagemaker.amazonaws.com"}, ["sts:AssumeRole"])
    assert one["Condition"]["StringEquals"] == {"aws:SourceAccount": iam.ACCOUNT}
    (pattern,) = one["Condition"]["ArnLike"].values()
    assert iam.matches(pattern, f"arn:aws:sagemaker:{iam.REGION}:{iam.ACCOUNT}:training-job/videolift-1")
    assert not iam.matches(pattern, f"arn:aws:sagemaker:{iam.REGION}:999999999999:training-job/videolift-1")


def test_a_person_is_granted_what_is_called_and_implied_and_no_more() -> None:
    called = {action for actions in iam.ACTIONS.values() for action in actions} - iam.TOLERATED
    assert iam.granted(iam.read_policy(iam.PERSON)) == called | iam.IMPLIED.keys()
    assert called & iam.IMPLIED.keys() == set()


def test_a_job_is_granted_what_the_service_needs_for_it_and_no_more() -> None:
    granted = iam.granted(iam.read_policy(iam.JOB_ROLE))
    assert granted == iam.ROLE.keys()
    assert {action for actions in iam.ROLE_ACTIONS.values() for action in actions} <= granted


def test_calls_are_held_against_a_policy() -> None:
    person = iam.filled(iam.PERSON)
    calls = [
        {"service": "sts", "operation": "GetCallerIdentity", "resource": ""},
        {"service": "s3", "operation": "HeadBucket", "resource": "bucket"},
        {"service": "s3", "operation": "UploadPart", "resource": "bucket/videolift/data/a b/v.avi"},
        {"service": "s3", "operation": "ListMultipartUploads", "resource": "bucket"},
        {"service": "sagemaker", "operation": "CreateTrainingJob", "resource": "videolift-train-1"},
        {"service": "sagemaker", "operation": "DescribeDomain", "resource": "d-1"},
        {"service": "logs", "operation": "DescribeLogStreams", "resource": "/aws/sagemaker/TrainingJobs"},
        {"service": "logs", "operation": "FilterLogEvents", "resource": "/aws/sagemaker/TrainingJobs"},
        {"service": "sagemaker", "operation": "ListTrainingJobs", "resource": ""},
        {"service": "iam", "operation": "GetRole", "resource": "videolift-job"},
        {"service": "ecr", "operation": "CreateRepository", "resource": "videolift-preprocess"},
        {"service": "servicequotas", "operation": "ListServiceQuotas", "resource": "sagemaker"},
    ]
    assert iam.check(calls, person) == []
    assert "s3:PutObject" not in iam.unused(calls, person)
    assert {"s3:GetObject", "sagemaker:StopTrainingJob"} <= iam.unused(calls, person)


@pytest.mark.parametrize(
    ("service", "operation", "resource", "problem"),
    [
        ("s3", "PutObject", "bucket/other/x", "s3:PutObject on bucket/other/x (PutObject)"),
        ("s3", "HeadBucket", "another", "s3:ListBucket on another (HeadBucket)"),
        ("s3", "HeadObject", "bucket/videolift", "s3:GetObject on bucket/videolift (HeadObject)"),
        ("sagemaker", "StopTrainingJob", "theirs", "sagemaker:StopTrainingJob on theirs (StopTrainingJob)"),
        ("iam", "GetRole", "admin", "iam:GetRole on admin (GetRole)"),
        ("ecr", "DescribeImages", "theirs", "ecr:DescribeImages on theirs (DescribeImages)"),
        ("logs", "PutLogEvents", "", "logs:PutLogEvents on something (PutLogEvents)"),
        ("logs", "DescribeLogStreams", "/x", "logs:DescribeLogStreams on /x (DescribeLogStreams)"),
    ],
)
def test_what_is_not_granted_is_a_problem(service: str, operation: str, resource: str, problem: str) -> None:
    call = {"service": service, "operation": operation, "resource": resource}
    assert iam.check([call, call], iam.filled(iam.PERSON)) == [problem]


def test_a_call_that_nobody_thought_of_is_an_error() -> None:
    with pytest.raises(iam.UnknownOperation, match="s3:DeleteObject"):
        iam.check([{"service": "s3", "operation": "DeleteObject", "resource": "bucket/x"}], iam.filled(iam.PERSON))


def test_documents_for_china_are_the_same_with_another_partition() -> None:
    """What docs/iam/README.md says to do there."""
    text = json.dumps(iam.filled(iam.PERSON, region="cn-north-1")).replace("arn:aws:", "arn:aws-cn:")
    call = {"service": "sagemaker", "operation": "CreateProcessingJob", "resource": "videolift-1"}
    assert iam.check([call], json.loads(text)) == []


def test_the_lifecycle_rule_is_last_and_has_what_its_kind_needs() -> None:
    (rule,) = json.loads(iam.text_of("ecr-lifecycle"))["rules"]
    assert rule["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 20}
    assert rule["action"] == {"type": "expire"}
