/*
 * What this kernel needs for one page of anonymous memory: processor time in nanoseconds per 4K page, and page faults.
 *
 *     live_cost PAGES ORDER [SEED]
 *     live_cost PAGES ORDER cold HELD
 *
 * Built on the spot and run by live_cost.py, which has enabled folios of 2**ORDER pages for MADV_HUGEPAGE. Prints one
 * line per measurement, "name ns faults": nanoseconds and page faults for all PAGES together. With a SEED pages are
 * read and written in random order.
 *
 * The clock counts the thread's own time, user and kernel: what other programs do meanwhile is not in it, but for the
 * caches they spoil. Memory is touched once before anything is timed, so that a virtual machine's host has provided it.
 * With "cold" it is given back then, HELD pages are taken and kept, and only the first touch of further pages is timed: a
 * host that takes free memory back (free page reporting, mm/page_reporting.c) must provide what was free for long.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define BLOCK (2UL << 20)

static size_t pages;
static int order;
static unsigned int *turn;
static volatile unsigned char sink;

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static long long now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static long fault_count(void)
{
	struct rusage use;
	getrusage(RUSAGE_SELF, &use);
	return use.ru_minflt;
}

static long long began;
static long faults_before;

static void begin(void)
{
	faults_before = fault_count();
	began = now();
}

static void end(const char *name)
{
	long long took = now() - began;
	printf("%s %lld %ld\n", name, took, fault_count() - faults_before);
}

static unsigned char *reserve(size_t bytes)
{
	unsigned char *at = mmap(0, bytes + BLOCK, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(at != MAP_FAILED, "mmap");
	return (unsigned char *)(((unsigned long)at + BLOCK - 1) & -BLOCK);
}

/* A mapping that begins at 2 MiB, with this size of folios or with single pages. */
static unsigned char *map(void)
{
	unsigned char *at = reserve(pages * PAGE);
	int advised = madvise(at, pages * PAGE, order ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	must(!advised || !order, "MADV_HUGEPAGE");
	return at;
}

static void write_all(unsigned char *at, unsigned char value)
{
	for (size_t each = 0; each < pages; each++)
		((volatile unsigned char *)at)[turn[each] * PAGE] = value;
}

static void read_all(unsigned char *at)
{
	for (size_t each = 0; each < pages; each++)
		sink = ((volatile unsigned char *)at)[turn[each] * PAGE];
}

/* A child that says with a byte that it lives, and exits when it is given one. */
struct child {
	pid_t pid;
	int go, alive;
};

static struct child forked(const char *name)
{
	int go[2], alive[2];
	char byte = 0;
	must(!pipe(go) && !pipe(alive), "pipe");
	fflush(stdout);
	begin();
	pid_t pid = fork();
	if (pid && name)
		end(name);
	must(pid >= 0, "fork");
	if (!pid) {
		close(go[1]);
		must(write(alive[1], &byte, 1) == 1, "write");
		if (read(go[0], &byte, 1) < 0)
			_exit(1);
		long long used = now();
		must(write(alive[1], &used, sizeof used) == sizeof used, "write");
		_exit(0);
	}
	must(read(alive[0], &byte, 1) == 1, "read");
	close(go[0]);
	close(alive[1]);
	return (struct child){ pid, go[1], alive[0] };
}

/* What an exit needs is what the child has used in all when it is gone, less what it had used before. */
static void exits(struct child child, const char *name)
{
	struct rusage use;
	long long before;
	int status;
	must(write(child.go, "", 1) == 1, "write");
	must(read(child.alive, &before, sizeof before) == sizeof before, "read");
	must(wait4(child.pid, &status, 0, &use) == child.pid && !status, "the child");
	long long all = (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000000LL +
			(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000LL;
	if (name)
		printf("%s %lld 0\n", name, all - before);
	close(child.go);
	close(child.alive);
}

static void copies(void)
{
	unsigned char *at = map();
	begin();
	write_all(at, 1);
	end("first_touch");
	struct child child = forked("fork");
	begin();
	write_all(at, 2);
	end("cow_copy");
	exits(child, "exit_last");
	munmap(at, pages * PAGE);
}

static void reuses(void)
{
	unsigned char *at = map();
	write_all(at, 1);
	exits(forked(0), "exit_shared");
	begin();
	write_all(at, 2);
	end("reuse");
	begin();
	write_all(at, 3);
	end("no_fault");
	begin();
	munmap(at, pages * PAGE);
	end("unmap");
}

static void reads_then_writes(void)
{
	unsigned char *at = map();
	begin();
	read_all(at);
	end("zero_read");
	begin();
	write_all(at, 1);
	end("zero_copy");
	munmap(at, pages * PAGE);
}

/* What a kernel does to many pages at once, seen from outside: copying them, reading and changing their entries. */
static void in_bulk(void)
{
	unsigned char *from = map(), *to = map(), *resident = malloc(pages);
	size_t bytes = pages * PAGE;
	must(resident != 0, "malloc");
	write_all(from, 1);
	write_all(to, 1);
	memset(resident, 1, pages);
	begin();
	for (size_t page = 0; page < pages; page++)
		memcpy(to + page * PAGE, from + page * PAGE, PAGE);
	end("copy_page");
	begin();
	for (size_t page = 0; page < pages; page++)
		memset(to + page * PAGE, 0, PAGE);
	end("clear_page");
	begin();
	must(!mincore(from, bytes, resident), "mincore");
	end("read_entry");
	begin();
	must(!mprotect(from, bytes, PROT_READ), "mprotect");
	end("protect_entry");
	munmap(from, bytes);
	munmap(to, bytes);
	free(resident);
}

static void choose_turns(unsigned int seed)
{
	turn = malloc(pages * sizeof *turn);
	must(turn != 0, "malloc");
	for (size_t page = 0; page < pages; page++)
		turn[page] = page;
	if (!seed)
		return;
	srandom(seed);
	for (size_t last = pages - 1; last; last--) {
		size_t other = random() % (last + 1);
		unsigned int page = turn[last];
		turn[last] = turn[other];
		turn[other] = page;
	}
}

/* Twice the pages are in use at most. */
static void warm_up(void)
{
	unsigned char *at = map(), *more = map();
	write_all(at, 1);
	write_all(more, 1);
	munmap(at, pages * PAGE);
	munmap(more, pages * PAGE);
}

/* What was freed last is had first: while somebody holds that, what has been free for long is left. */
static void cold(size_t held)
{
	unsigned char *hot = reserve(held * PAGE);
	madvise(hot, held * PAGE, order ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t page = 0; page < held; page++)
		hot[page * PAGE] = 1;
	unsigned char *at = map();
	begin();
	write_all(at, 1);
	end("first_touch");
}

int main(int count, char **words)
{
	must(count >= 3 && count <= 5, "live_cost PAGES ORDER [SEED | cold HELD]");
	pages = strtoul(words[1], 0, 10);
	order = atoi(words[2]);
	must(pages > 0, "PAGES");
	choose_turns(count == 4 ? atoi(words[3]) : 0);
	warm_up();
	if (count == 5) {
		cold(strtoul(words[4], 0, 10));
		return 0;
	}
	copies();
	reuses();
	if (!order) {
		reads_then_writes();
		in_bulk();
	}
	return 0;
}
