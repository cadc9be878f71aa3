"""The Kubernetes manifests, without a cluster."""

import unittest

from stack import ROOT, run


class Kubernetes(unittest.TestCase):
    def test_the_trial_overlay_is_valid(self):
        self.assertIn("valid", run(ROOT / "k8s" / "validate", timeout=600))
