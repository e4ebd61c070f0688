"""How a message finds a client: an interface (`base`) and the ways to reach one."""
