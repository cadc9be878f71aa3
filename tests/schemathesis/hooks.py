"""What schemathesis cannot know: a cursor is one that a list gave."""

import base64
import hashlib
import json
import os
import re

import schemathesis

CURSORS = json.loads(os.environ["TRACKER_CURSORS"])


def is_genuine(cursor):
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return False
    return hashlib.sha256(content[:-6]).digest()[:6] == content[-6:]


@schemathesis.hook
def before_call(context, case, **kwargs):
    """Puts a genuine cursor in the place of one that only looks like it. What does not even look like it stays."""
    query = case.query or {}
    cursor = query.get("cursor")
    if not isinstance(cursor, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", cursor) or is_genuine(cursor):
        return
    operation = case.operation.definition.raw["operationId"]
    if operation == "searchEmails":
        operation += f" {query.get('sort', 'created')}"
    if operation in CURSORS:
        query["cursor"] = CURSORS[operation]
