//go:build ignore
// The line above keeps the go tool from compiling this; cc skips it.

/*
 * tiny_akc: the least that an AuthorizedKeysCommand can cost, as the peer of
 * sekisho-keys in the benchmark. It connects to sekishod's socket, sends one
 * keys request, reads the answer and prints its body. Never install it: it
 * looks at no permissions, trusts the answer, has no deadline and no limits.
 *
 * Build it static, so that no dynamic linking is measured:
 *     cc -O2 -static -s -o tiny_akc tiny_akc.c
 * Use: tiny_akc SOCKET USER [FINGERPRINT [TYPE [KEY]]], arguments that need
 * no percent-encoding.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static const char *name[] = {"user", "fp", "type", "key"};
	static char buf[1 << 20];
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = 0, lines = 1;
	char *body;
	int fd, at;

	if (argc < 3 || argc > 6 || strlen(argv[1]) >= sizeof addr.sun_path)
		return 2;
	strcpy(addr.sun_path, argv[1]);
	at = snprintf(buf, sizeof buf, "1 keys");
	for (int i = 2; i < argc; i++)
		at += snprintf(buf + at, sizeof buf - at, " %s=%s", name[i - 2], argv[i]);
	buf[at++] = '\n';

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0)
		return 75;
	if (write(fd, buf, at) != at)
		return 75;

	/* the header line says how many lines follow */
	for (size_t seen = 0, i = 0; seen < lines;) {
		ssize_t n = read(fd, buf + len, sizeof buf - 1 - len);
		if (n <= 0)
			return 75;
		len += n;
		buf[len] = 0;
		for (; i < len; i++)
			if (buf[i] == '\n' && seen++ == 0) {
				char *count = strncmp(buf, "1 yes ", 6) == 0 ? buf + 6 : NULL;
				if (count == NULL)
					return 1;
				lines += strtoul(count, NULL, 10);
			}
	}
	body = strchr(buf, '\n') + 1;
	return write(1, body, buf + len - body) == buf + len - body ? 0 : 75;
}
