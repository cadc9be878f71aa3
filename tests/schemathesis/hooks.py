"""What schemathesis cannot know: a cursor is one that a list gave, and which time zones there are."""

import base64
import hashlib
import json
import os
import re
import zoneinfo

import schemathesis

ZONES = sorted(zoneinfo.available_timezones())
CURSORS = json.loads(os.environ["TRACKER_CURSORS"])


def is_genuine(cursor):
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return False
    return hashlib.sha256(content[:-6]).digest()[:6] == content[-6:]


@schemathesis.hook
def before_call(context, case, **kwargs):
    """Puts something genuine in the place of what only looks like it. What does not even look like it stays."""
    query = case.query or {}
    operation = case.operation.definition.raw["operationId"]
    if looks_like(r"[A-Za-z0-9_-]+", cursor := query.get("cursor")) and not is_genuine(cursor):
        if operation == "searchEmails":
            operation += f" {query.get('sort', 'created')}"
        if operation in CURSORS:
            query["cursor"] = CURSORS[operation]
    if looks_like(r"[A-Za-z0-9_+/-]{1,64}", zone := query.get("zone")):
        query["zone"] = ZONES[sum(zone.encode()) % len(ZONES)]


def looks_like(pattern, value):
    return isinstance(value, str) and re.fullmatch(pattern, value)
