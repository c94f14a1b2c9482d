/* Moves the wall clock of the program that it is preloaded into by what the
 * mapped file CLOCK_FILE says: nanoseconds, 8 bytes, native order. Changing the
 * file moves the clock of a running program.
 *
 * Everything is set up at load time, before the program can chroot, drop
 * privileges or enter a seccomp sandbox. What needs no clock of its own is left
 * to the kernel: see MoveClock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

typedef int clock_gettime_fn(clockid_t, struct timespec *);

static const int64_t zero;
static const int64_t *offset = &zero;
static clock_gettime_fn *next;

__attribute__((constructor)) static void load(void)
{
	int saved = errno;
	int fd = open(CLOCK_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	next = (clock_gettime_fn *)dlsym(RTLD_NEXT, "clock_gettime");
	if (fd >= 0) {
		void *m = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
		if (m != MAP_FAILED)
			offset = m;
		close(fd);
	}
	errno = saved;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
	/* Another library's constructor may ask before ours has run. */
	int r = next ? next(id, t) : (int)syscall(SYS_clock_gettime, id, t);
	int64_t ns;

	if (r != 0 || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return r;
	ns = __atomic_load_n(offset, __ATOMIC_RELAXED);
	t->tv_sec += ns / SECOND;
	ns = t->tv_nsec + ns % SECOND;
	if (ns >= SECOND) {
		ns -= SECOND;
		t->tv_sec++;
	} else if (ns < 0) {
		ns += SECOND;
		t->tv_sec--;
	}
	t->tv_nsec = ns;
	return 0;
}

int gettimeofday(struct timeval *restrict v, void *restrict zone)
{
	struct timespec t;

	(void)zone; /* obsolete; the kernel's is zero */
	if (clock_gettime(CLOCK_REALTIME, &t) != 0)
		return -1;
	v->tv_sec = t.tv_sec;
	v->tv_usec = t.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *p)
{
	struct timespec t;

	if (clock_gettime(CLOCK_REALTIME_COARSE, &t) != 0)
		return (time_t)-1;
	if (p)
		*p = t.tv_sec;
	return t.tv_sec;
}

int timespec_get(struct timespec *t, int base)
{
	return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}
