"""The cluster that these tests share; where there can be none they are skipped by name, which CI counts as failed."""

import pytest
from cluster import Cluster, commands_of, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running cluster without accounts; SLURM's commands of this process find it."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("cluster")) as made, commands_of(made):
        yield made


@pytest.fixture(scope="session")
def accounts(cluster, tmp_path_factory):
    """A second cluster, with slurmdbd on MariaDB."""
    reason = missing(accounting=True)
    if reason:
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("accounts"), accounting=True) as made:
        yield made


@pytest.fixture(scope="session")
def two_nodes(cluster, tmp_path_factory):
    """A cluster of two nodes."""
    with Cluster(tmp_path_factory.mktemp("nodes"), nodes=2) as made:
        yield made
