"""Share a route's requests out over several upstreams, and keep each client on its own (A/B).

Pure: the caller draws the number. The cookie is not signed: a client that changes it chooses between
upstreams that it could be given anyway.

Owns:       who gets which upstream, and the cookie that remembers it.
Leaves to:  routing/table.py (the route), balancing (the server within the upstream).
Called by:  chain/entry.py, once a request of a route with `split`.
Invariant:  a client that sends the cookie back stays where it is as long as that upstream has a share.
            An unknown, old or made-up value is answered with a new choice, never an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

DEFAULT_COOKIE = "gp_split"


class Split:
    """The upstreams of one route with their shares. `cookie` is the name of the cookie to read."""

    __slots__ = ("_names", "_set_cookie", "_steps", "cookie")

    def __init__(self, shares: Mapping[str, float], cookie: str = DEFAULT_COOKIE) -> None:
        """Take the share of each upstream; any unit does. One with share 0 keeps no client.

        Raises ValueError when no upstream has a share.
        """
        self.cookie = cookie
        self._names = tuple(name for name, share in shares.items() if share > 0)
        if not self._names:
            raise ValueError(f"no upstream of {sorted(shares)} has a share")
        self._steps = tuple(accumulate(shares[name] for name in self._names))
        # No Max-Age: the choice ends with the browser's session. An upstream's name needs no quoting (config/names.py).
        self._set_cookie = {name: f"{cookie}={name}; Path=/; HttpOnly; SameSite=Lax" for name in self._names}

    def choose(self, remembered: str | None, number: float) -> tuple[str, str | None]:
        """Return the upstream and the Set-Cookie value that remembers it, None if the client knows.

        `remembered` is the cookie's value, `number` is in [0, 1): equal numbers give equal choices.
        """
        if remembered in self._set_cookie:
            return remembered, None
        # The last name also takes what rounding leaves above the last step but one.
        name = self._names[bisect_right(self._steps, number * self._steps[-1], hi=len(self._names) - 1)]
        return name, self._set_cookie[name]
