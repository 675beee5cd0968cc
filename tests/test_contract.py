"""Every bijector of every topic keeps the contract, property by property."""

import pytest

from flowcourse.catalog import TOPICS, instances
from flowcourse.testing import PROPERTIES, check_bijector

CASES = [(topic.name, name) for topic in TOPICS for name in instances(topic.name)]


@pytest.mark.parametrize("property_name", PROPERTIES)
@pytest.mark.parametrize(("topic", "instance"), CASES, ids=lambda value: value)
def test_property(topic, instance, property_name):
    bijector, x = instances(topic)[instance]
    check_bijector(bijector, x, properties=[property_name])
