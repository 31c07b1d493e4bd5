"""Validation of L7 policies and their rules; validation.py looks at the pool that one leads to."""

import re
from collections.abc import Iterator
from types import MappingProxyType

from amphora_agent.model.decode import Problem, either
from amphora_agent.model.loadbalancer.types import Action, CompareType, L7Policy, L7Rule, RuleType

#: Of one policy: Octavia's own limit, and what a line of haproxy's has room for.
MOST_RULES = 50

_REDIRECT_CODES = (301, 302, 303, 307, 308)
#: What each action needs, and what belongs to others.
_TARGETS = MappingProxyType(
    {
        Action.REJECT: (),
        Action.REDIRECT_PREFIX: ("redirect_prefix",),
        Action.REDIRECT_TO_POOL: ("redirect_pool_id",),
        Action.REDIRECT_TO_URL: ("redirect_url",),
    }
)

_ALL_COMPARISONS = frozenset(CompareType)
_EQUAL = frozenset({CompareType.EQUAL_TO})
_COMPARISONS = MappingProxyType(
    {
        RuleType.COOKIE: _ALL_COMPARISONS,
        RuleType.FILE_TYPE: frozenset({CompareType.EQUAL_TO, CompareType.REGEX}),
        RuleType.HEADER: _ALL_COMPARISONS,
        RuleType.HOST_NAME: _ALL_COMPARISONS,
        RuleType.PATH: _ALL_COMPARISONS,
        RuleType.SSL_CONN_HAS_CERT: _EQUAL,
        RuleType.SSL_DN_FIELD: _ALL_COMPARISONS,
        RuleType.SSL_VERIFY_RESULT: _EQUAL,
    }
)
_KEYED = frozenset({RuleType.COOKIE, RuleType.HEADER, RuleType.SSL_DN_FIELD})
_DN_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9-]*")

#: Regular expressions that mean the same to everyone: no look-behind, no named groups, no
#: back-references, no possessive quantifiers, and of the escapes the common ones.
_REGEX = re.compile(
    r"""(?:\(\?i\))?                      # without regard to case
        (?: [^\\(]                       # most characters are themselves
          | \\[dDsSwWbBtnrf.^$*+?()\[\]{}|/\\"'%&#~,:;=!<>@_ -]
          | \\x[0-9A-Fa-f]{2}
          | \((?!\?)                     # a group
          | \(\?[:=!]                    # one that is not remembered, or only looks ahead
        )*""",
    re.VERBOSE,
)
#: What one engine takes for something else than another, or refuses.
_PECULIAR = re.compile(
    r"""(?<!\\)[*+?}]\+                   # a possessive quantifier
      | \{,                             # a repeat without a lower bound
      | \(\?[=!]\)                      # a look ahead at nothing
      | \{[^}]*[0-9]{4}                 # one of 1000 and more
      | \[\^?\] | \[[\[:.=]             # a bracket or a class's name in brackets
      | \[(?:\\.|[^\]\\])*(?:\[[:.=]|--|&&|~~|\|\|)
    """,
    re.VERBOSE,
)
_REPEATED_GROUP = re.compile(r"\)\{([0-9]+)(?:,([0-9]*))?\}")
#: Length times repeats of groups: how much room a compiled expression takes is bounded.
_BIG_REGEX = 4_000


def find_problems(path: str, policy: L7Policy) -> Iterator[Problem]:
    """Yield what is wrong with the policy at `path`, whatever pools there are."""
    targets = {
        "redirect_pool_id": policy.target_pool_id,
        "redirect_prefix": policy.redirect_prefix,
        "redirect_url": policy.redirect_url,
    }
    for name in _TARGETS[policy.action]:
        if targets[name] is None:
            yield Problem(f"{path}.{name}", f"{policy.action} needs it")
    for name, value in targets.items():
        if value is not None and name not in _TARGETS[policy.action]:
            yield Problem(f"{path}.{name}", f"{policy.action} does not use it")
    if policy.redirect_http_code not in (None, *_REDIRECT_CODES):
        allowed = ", ".join(map(str, _REDIRECT_CODES))
        words = f"{policy.redirect_http_code} is not one of {allowed}"
        yield Problem(f"{path}.redirect_http_code", words)
    if len(policy.rules or ()) > MOST_RULES:
        yield Problem(f"{path}.rules", f"are more than {MOST_RULES}")
    for index, rule in enumerate(policy.rules or ()):
        yield from _rule(f"{path}.rules[{index}]", rule)


def _rule(path: str, rule: L7Rule) -> Iterator[Problem]:
    if rule.compare_type not in _COMPARISONS[rule.type]:
        words = f"{rule.type} cannot be compared by {rule.compare_type}"
        allowed = either(_COMPARISONS[rule.type])
        yield Problem(f"{path}.compare_type", f"{words}; allowed: {allowed}")
    if (rule.key is None) == (rule.type in _KEYED):
        words = "needs it" if rule.type in _KEYED else "does not use it"
        yield Problem(f"{path}.key", f"{rule.type} {words}")
    if rule.type is RuleType.SSL_DN_FIELD and rule.key and not _DN_FIELD.fullmatch(rule.key):
        yield Problem(f"{path}.key", f"{rule.key!r} is no field of a distinguished name")
    if rule.type is RuleType.SSL_CONN_HAS_CERT and rule.value.lower() != "true":
        yield Problem(f"{path}.value", f"{rule.value!r} is not True, the only value of this type")
    if rule.type is RuleType.SSL_VERIFY_RESULT and not re.fullmatch("[0-9]{1,3}", rule.value):
        yield Problem(f"{path}.value", f"{rule.value!r} is not a result, 0 to 999")
    if rule.compare_type is CompareType.REGEX and (wrong := _wrong_regex(rule.value)):
        yield Problem(f"{path}.value", wrong)
    if not rule.compared_value:
        yield Problem(f"{path}.value", "there is nothing in the quotes")


def _wrong_regex(value: str) -> str | None:
    if not _REGEX.fullmatch(value):
        return (
            "only groups, (?:…), (?=…), (?!…), (?i) at the beginning, and the escapes that every"
            " engine has are allowed in it"
        )
    if _PECULIAR.search(value):
        return (
            "possessive quantifiers, {,n}, repeats of 1000 and more, (?=) and (?!), and brackets,"
            " names of classes and doubled operators in brackets are not allowed in it"
        )
    size = len(value)
    for repeat in _REPEATED_GROUP.finditer(value):
        size *= max(1, int(repeat[1]), int(repeat[2] or 0))
    if size > _BIG_REGEX:
        return "its groups are repeated too often"
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        return f"not a regular expression: {error}"
    return None
