"""Sample applications, as legacy shops bring them, and how a test starts one."""
