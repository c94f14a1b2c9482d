#include "sekisho.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_modutil.h>

/* The tickets of a sign-in are in <the socket's folder>/tickets/NAME/cc, NAME of
 * sekishod's choice. Folder and file are the user's; their group is that of
 * tickets, which is the broker's, so that it can renew and sweep them. Everything
 * below is reached from an open folder, one name at a time, and no link is
 * followed. */

static const char tickets[] = "tickets", file[] = "cc";

static int open_folder(int at, const char *name)
{
	return fd_high(openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

/* open_tickets opens the folder tickets and tells its group; -1 after logging why. */
static int open_tickets(const struct call *c, gid_t *gid)
{
	struct fault f;
	struct stat st;
	uid_t owner;
	char path[MAX_PATH];
	if (!folder_guard(c->opt.socket, &owner, &f)) {
		note(c, LOG_ERR, "%s: %s", c->opt.socket, f.what);
		return -1;
	}
	size_t n = (size_t)(strrchr(c->opt.socket, '/') - c->opt.socket);
	memcpy(path, c->opt.socket, n);
	path[n] = 0;
	int run = open_folder(AT_FDCWD, n == 0 ? "/" : path);
	int fd = run < 0 ? -1 : open_folder(run, tickets);
	if (fd < 0 || fstat(fd, &st) != 0) {
		note(c, LOG_ERR, "opening %s/%s: %m", path, tickets);
		if (fd >= 0)
			close(fd);
		fd = -1;
	} else if ((st.st_uid != 0 && st.st_uid != owner) || (st.st_mode & S_IWOTH) != 0) {
		note(c, LOG_ERR, "%s/%s is not root's or the broker's, or everybody may write to it", path, tickets);
		close(fd);
		fd = -1;
	} else {
		*gid = st.st_gid;
	}
	if (run >= 0)
		close(run);
	return fd;
}

static bool write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return true;
}

/* hand_over makes fd the user's, whatever the umask was. */
static bool hand_over(int fd, uid_t uid, gid_t gid, mode_t mode)
{
	return fchown(fd, uid, gid) == 0 && fchmod(fd, mode) == 0;
}

/* fill writes the file into a folder that is still root's alone, and hands over
 * the file, then the folder: the user never meets a half of it. */
static bool fill(int dir, const char *data, size_t len, uid_t uid, gid_t gid)
{
	struct stat st;
	/* The broker may rename in tickets: what is handed over must be ours, and new. */
	if (fstat(dir, &st) != 0 || st.st_uid != geteuid() || fchmod(dir, 0700) != 0)
		return false;
	int fd = fd_high(openat(dir, file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
	if (fd < 0)
		return false;
	bool ok = write_all(fd, data, len) && hand_over(fd, uid, gid, 0660);
	int err = errno;
	if (close(fd) != 0 && ok) {
		ok = false;
		err = errno;
	}
	if (ok && hand_over(dir, uid, gid, 0770))
		return true;
	err = ok ? errno : err;
	unlinkat(dir, file, 0);
	errno = err;
	return false;
}

/* cache_make writes a credential cache for the user of this call, names it in
 * PAM's environment, and removes the one that this handle had before. On failure
 * nothing is left. */
int cache_make(struct call *c, const char *name, char *data, size_t len)
{
	char ccname[MAX_PATH];
	gid_t gid;
	const struct passwd *pw = pam_modutil_getpwnam(c->pamh, c->user);
	if (pw == NULL) {
		note(c, LOG_ERR, "no ticket cache: this host knows no user of that name");
		return PAM_USER_UNKNOWN;
	}
	uid_t uid = pw->pw_uid;
	if (!cache_name(c, name, ccname, sizeof ccname))
		return PAM_CRED_ERR;
	int at = open_tickets(c, &gid);
	if (at < 0)
		return PAM_CRED_ERR;
	if (mkdirat(at, name, 0700) != 0) {
		note(c, LOG_ERR, "making a folder for tickets: %m");
		close(at);
		return PAM_CRED_ERR;
	}
	int dir = open_folder(at, name), rc = PAM_CRED_ERR;
	if (dir < 0 || !fill(dir, data, len, uid, gid)) {
		note(c, LOG_ERR, "writing a ticket cache: %m");
	} else if ((rc = env_put(c, CCACHE_ENV, ccname)) != PAM_SUCCESS) {
		rc = PAM_BUF_ERR;
		unlinkat(dir, file, 0);
	}
	if (rc != PAM_SUCCESS)
		unlinkat(at, name, AT_REMOVEDIR);
	if (dir >= 0)
		close(dir);
	close(at);
	if (rc != PAM_SUCCESS)
		return rc;
	if (c->state->dir[0] != 0)
		cache_remove(c);
	memcpy(c->state->dir, name, NAME_LEN + 1);
	c->state->uid = uid;
	debug(c, "tickets are in %s", ccname);
	return PAM_SUCCESS;
}

/* cache_remove removes the cache that this handle made, and nothing else: not what
 * PAM's environment names by now, nor a folder that is not the user's. What cannot
 * be removed, because he put files of his own beside it, is sekishod's to sweep. */
int cache_remove(struct call *c)
{
	struct stat st;
	gid_t gid;
	int rc = PAM_SUCCESS;
	if (c->state->dir[0] == 0)
		return PAM_SUCCESS;
	int at = open_tickets(c, &gid);
	if (at < 0)
		return PAM_CRED_ERR;
	int dir = open_folder(at, c->state->dir);
	if (dir < 0 && errno != ENOENT) {
		note(c, LOG_ERR, "opening the folder of tickets: %m");
		rc = PAM_CRED_ERR;
	} else if (dir >= 0) {
		if (fstat(dir, &st) != 0 || st.st_uid != c->state->uid) {
			note(c, LOG_ERR, "the folder of tickets is somebody else's: it is left alone");
			rc = PAM_CRED_ERR;
		} else if ((unlinkat(dir, file, 0) != 0 && errno != ENOENT) || (unlinkat(at, c->state->dir, AT_REMOVEDIR) != 0 && errno != ENOENT && errno != ENOTEMPTY)) {
			note(c, LOG_ERR, "removing tickets: %m");
			rc = PAM_CRED_ERR;
		}
		close(dir);
	}
	close(at);
	if (rc == PAM_SUCCESS) {
		char mine[MAX_PATH];
		const char *ccname = pam_getenv(c->pamh, CCACHE_ENV);
		if (ccname != NULL && cache_name(c, c->state->dir, mine, sizeof mine) && strcmp(ccname, mine) == 0)
			pam_putenv(c->pamh, CCACHE_ENV);
		c->state->dir[0] = 0;
	}
	return rc;
}

/* cache_name writes the name of a cache as MIT's libraries read it. */
bool cache_name(const struct call *c, const char *dir, char *buf, size_t room)
{
	int folder = (int)(strrchr(c->opt.socket, '/') - c->opt.socket);
	int n = snprintf(buf, room, "FILE:%.*s/%s/%s/%s", folder, c->opt.socket, tickets, dir, file);
	return n > 0 && (size_t)n < room;
}

/* cache_is_ours tells whether ccname has the shape of a cache made here. */
bool cache_is_ours(const struct call *c, const char *ccname)
{
	char want[MAX_PATH], name[NAME_LEN + 1];
	size_t n = strlen(ccname);
	if (n < NAME_LEN + sizeof file + 1 || n >= sizeof want)
		return false;
	memcpy(name, ccname + n - sizeof file - NAME_LEN, NAME_LEN);
	name[NAME_LEN] = 0;
	return is_opaque(name, NAME_LEN, NAME_LEN) && cache_name(c, name, want, sizeof want) && strcmp(want, ccname) == 0;
}
