"""A steady load of keep-alive clients on the demo application, with a verdict at the end.

Run it by `./run.sh load steady [--host URL]` while `./run.sh` serves the demo.
Passes if no request failed and 95 of 100 took no longer than MAX_P95_MS.
"""

from __future__ import annotations

import logging

from locust import FastHttpUser, constant_throughput, events, task
from locust.env import Environment

# Fifty users at this rate are about 250 requests per second: steady work for two cores, and not a flood.
REQUESTS_PER_USER_PER_SECOND = 5
MAX_P95_MS = 500


class Visitor(FastHttpUser):
    """One person who reads the front page again and again over one connection."""

    host = "http://127.0.0.1:8080"
    wait_time = constant_throughput(REQUESTS_PER_USER_PER_SECOND)

    @task
    def read_front_page(self) -> None:
        """Ask for the front page; Locust counts any status from 400 on as a failure."""
        self.client.get("/")


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Turn the run's numbers into the exit code that `./run.sh load` reports."""
    total = environment.stats.total
    p95 = total.get_response_time_percentile(0.95) or 0
    passed = total.num_requests > 0 and total.num_failures == 0 and p95 <= MAX_P95_MS
    logging.info(
        "%d requests, %d failures, 95%% within %d ms (limit %d)",
        total.num_requests,
        total.num_failures,
        p95,
        MAX_P95_MS,
    )
    environment.process_exit_code = 0 if passed else 1
