#include "sekisho.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static bool fail(struct fault *f, const char *what, int err)
{
	f->what = what;
	f->err = err;
	return false;
}

/* clock_ms is a clock that nobody sets, in milliseconds. */
int64_t clock_ms(void)
{
	struct timespec t;
	if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
		return INT64_MAX / 2; /* every deadline has passed */
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* fd_high moves a new descriptor off 0, 1 and 2, which a program that closed them
 * may read and write as its own. It is closed when that fails. */
int fd_high(int fd)
{
	if (fd < 0 || fd > 2)
		return fd;
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 3), err = errno;
	close(fd);
	errno = err;
	return high;
}

/* left is the time until a deadline for poll(2) and the like, 0 when it has passed. */
static int left(int64_t until)
{
	int64_t now = clock_ms();
	if (until <= now)
		return 0;
	return until - now > 3600000 ? 3600000 : (int)(until - now);
}

/* folder_guard tells whether what stands at path can be believed, and whose the
 * folder around it is.
 *
 * Whoever can put a socket of his own at path can answer for sekishod and collects
 * passwords. So the folder around it must be writable by its owner alone, who may
 * be root or the broker's user; nor may anybody move it away and put another in its
 * place: each folder above is root's and writable by nobody else. A sticky one, such
 * as /tmp, may stand above a folder of root's own, which others can not move. Links
 * are not followed: their targets' folders are others. What stands at path is its
 * folder owner's, or root's. The listener's uid, checked after the connect, is the
 * second lock. */
bool folder_guard(const char *path, uid_t *owner, struct fault *f)
{
	char dir[MAX_PATH];
	size_t len = strlen(path);
	bool loose = false; /* others may put entries into the folder above */
	if (len >= sizeof dir || path[0] != '/' || path[len - 1] == '/')
		return fail(f, "the socket's path is not a plain absolute one", 0);
	for (size_t at = 0; at < len;) {
		size_t end = at + 1;
		while (end < len && path[end] != '/')
			end++;
		size_t n = end - at - 1;
		const char *name = path + at + 1;
		if (n == 0 || (n == 1 && name[0] == '.') || (n == 2 && name[0] == '.' && name[1] == '.'))
			return fail(f, "the socket's path has an empty part, . or ..", 0);
		memcpy(dir, path, at);
		dir[at] = 0;
		struct stat st;
		if (lstat(at == 0 ? "/" : dir, &st) != 0)
			return fail(f, "looking at the socket's folder", errno);
		bool last = end == len, open = (st.st_mode & (S_IWGRP | S_IWOTH)) != 0;
		if (!S_ISDIR(st.st_mode))
			return fail(f, "a part of the socket's path is not a folder (links are not followed)", 0);
		if (st.st_uid != 0 && (!last || loose))
			return fail(f, "a folder above the socket is not root's: somebody could put up a false socket", 0);
		if (open && (last || (st.st_mode & S_ISVTX) == 0))
			return fail(f, "a folder above the socket is writable by others than its owner, who could put up a false socket", 0);
		loose = open;
		*owner = st.st_uid;
		at = end;
	}
	return true;
}

/* peer_guard is the second lock: the kernel says who listens. */
static bool peer_guard(int fd, uid_t owner, struct fault *f)
{
	struct ucred cred;
	socklen_t n = sizeof cred;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) != 0 || n != sizeof cred)
		return fail(f, "asking the kernel who listens", errno);
	if (cred.uid != 0 && cred.uid != owner)
		return fail(f, "who listens at the socket is neither root nor the owner of its folder: nothing was said to him", 0);
	return true;
}

/* connect_by connects. A full backlog blocks connect(2) itself, where poll(2)
 * would be of no use; the kernel's own timeout bounds it (SO_SNDTIMEO, socket(7)). */
static bool connect_by(int fd, const char *path, int64_t until, struct fault *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	size_t n = strlen(path);
	if (n >= sizeof addr.sun_path)
		return fail(f, "the socket's path is too long", 0);
	memcpy(addr.sun_path, path, n);
	for (;;) {
		int ms = left(until);
		if (ms == 0)
			return fail(f, "connecting: the queue of sekishod is full, or it hangs", ETIMEDOUT);
		struct timeval t = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t) != 0)
			return fail(f, "setting a timeout", errno);
		if (connect(fd, (const struct sockaddr *)&addr, sizeof addr) == 0)
			return true;
		if (errno == EAGAIN)
			poll(NULL, 0, ms < 10 ? ms : 10);
		else if (errno != EINTR)
			return fail(f, "connecting (is sekishod running?)", errno);
	}
}

/* conn_open connects to sekishod: a descriptor above 2 that is closed on exec,
 * or -1. */
int conn_open(const struct options *o, int64_t until, struct fault *f)
{
	uid_t owner;
	struct stat st;
	if (!folder_guard(o->socket, &owner, f))
		return -1;
	if (lstat(o->socket, &st) != 0) {
		fail(f, "looking at the socket (is sekishod running?)", errno);
		return -1;
	}
	if (!S_ISSOCK(st.st_mode) || (st.st_uid != 0 && st.st_uid != owner)) {
		fail(f, "what stands at the socket's path is no socket of root's or of its folder's owner", 0);
		return -1;
	}
	int fd = fd_high(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (fd < 0) {
		fail(f, "making a socket", errno);
		return -1;
	}
	if (!connect_by(fd, o->socket, until, f) || !peer_guard(fd, owner, f)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* wait_for waits until fd is ready, or until. */
static bool wait_for(int fd, short events, int64_t until, struct fault *f)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		int ms = left(until);
		if (ms == 0)
			return fail(f, "no answer in time", ETIMEDOUT);
		int n = poll(&p, 1, ms);
		if (n > 0)
			return true; /* errors show in the call that follows */
		if (n < 0 && errno != EINTR)
			return fail(f, "waiting for sekishod", errno);
	}
}

/* conn_quiet tells whether nothing has come that nobody asked for. */
bool conn_quiet(int fd, struct fault *f)
{
	char c;
	ssize_t n;
	while ((n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT)) < 0 && errno == EINTR)
		;
	if (n > 0)
		return fail(f, "sekishod said something that nobody asked for", 0);
	if (n == 0)
		return fail(f, "sekishod has ended the conversation", 0);
	return errno == EAGAIN || fail(f, "reading from sekishod", errno);
}

/* conn_send sends all of buf; it never raises SIGPIPE. */
bool conn_send(int fd, const char *buf, size_t len, int64_t until, struct fault *f)
{
	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			buf += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			if (!wait_for(fd, POLLOUT, until, f))
				return false;
		} else if (errno != EINTR) {
			return fail(f, "writing to sekishod", errno);
		}
	}
	return true;
}

/* conn_recv reads at least one byte, and returns how many, or -1. */
ssize_t conn_recv(int fd, char *buf, size_t room, int64_t until, struct fault *f)
{
	for (;;) {
		if (!wait_for(fd, POLLIN, until, f))
			return -1;
		ssize_t n = recv(fd, buf, room, MSG_DONTWAIT);
		if (n > 0)
			return n;
		if (n == 0) {
			fail(f, "sekishod hung up before its answer's end", 0);
			return -1;
		}
		if (errno != EINTR && errno != EAGAIN) {
			fail(f, "reading from sekishod", errno);
			return -1;
		}
	}
}
