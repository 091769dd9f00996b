/* One program for each thing that a recorder of page faults can take for something else: kinds KIND.
 * 1024 pages where not said otherwise, so that a wrong count of their faults is not to be overlooked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 1024ul
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

static void fail(const char *what) { perror(what); exit(2); }

static char *map(size_t pages, int access, int flags)
{
    char *at = mmap(NULL, pages * PAGE, access, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (at == MAP_FAILED) fail("mmap");
    return at;
}

static char *memory(size_t pages) { return map(pages, PROT_READ | PROT_WRITE, 0); }

static void write_all(char *at, size_t pages)
{
    for (size_t page = 0; page < pages; page++) at[page * PAGE] = 1;
}

static void must(int failed, const char *what) { if (failed) fail(what); }

static sigjmp_buf back;
static void jump(int number) { siglongjmp(back, number); }

static void kind_populate(void)
{
    write_all(map(PAGES, PROT_READ | PROT_WRITE, MAP_POPULATE), PAGES / 2);
    map(64, PROT_READ, MAP_POPULATE);
}

static void kind_madvise_populate(void)
{
    char *at = memory(PAGES);
    must(madvise(at, PAGES / 4 * PAGE, 22 /* MADV_POPULATE_READ */), "populate_read");
    must(madvise(at + PAGES / 8 * PAGE, PAGES / 2 * PAGE, 23 /* MADV_POPULATE_WRITE */), "populate_write");
    write_all(at, PAGES);
}

static void kind_mlock(void)
{
    char *at = memory(PAGES);
    write_all(at, PAGES / 8);
    must(mlock(at, PAGES / 2 * PAGE), "mlock");
    must(syscall(SYS_mlock2, at + PAGES / 2 * PAGE, 64 * PAGE, 1 /* MLOCK_ONFAULT */), "mlock2");
    must(munlock(at, PAGES / 4 * PAGE), "munlock");
    write_all(at, PAGES);
}

static void kind_mlockall(void)
{
    char *before = memory(PAGES / 4);
    must(mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall");
    char *after = memory(PAGES);
    char *none = map(64, PROT_NONE, 0);
    must(mprotect(none, 64 * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    char *heap = sbrk(64 * PAGE);
    after = mremap(after, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
    if (after == MAP_FAILED) fail("mremap");
    write_all(before, PAGES / 4);
    write_all(after, 2 * PAGES);
    write_all(heap, 64);
    must(munlockall(), "munlockall");
    write_all(memory(64), 64);
}

static void kind_direct(void)
{
    char *from = memory(PAGES), *to = memory(PAGES);
    write_all(from, PAGES);
    int file = open("direct", O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (file < 0) fail("open O_DIRECT");
    if (write(file, from, PAGES * PAGE) != PAGES * PAGE) fail("write");
    if (pread(file, to, PAGES * PAGE, 0) != PAGES * PAGE) fail("read");
    unlink("direct");
}

static void kind_vmwrite(void)
{
    char *from = memory(PAGES), *to = memory(PAGES);
    write_all(from, PAGES);
    struct iovec mine = { from, PAGES * PAGE }, other = { to, PAGES * PAGE };
    if (process_vm_writev(getpid(), &mine, 1, &other, 1, 0) != PAGES * PAGE) fail("process_vm_writev");
}

static void kind_thp_disable(void)
{
    must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl");
    if (!fork()) {
        write_all(memory(PAGES), PAGES);
        execl("/bin/true", "true", NULL);
        fail("exec");
    }
    wait(NULL);
    write_all(memory(PAGES), PAGES);
    must(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), "prctl");
    write_all(memory(PAGES), PAGES);
}

static void kind_userfaultfd(void)
{
    char *at = memory(PAGES);
    int file = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);
    if (file < 0) fail("userfaultfd");
    struct uffdio_api api = { .api = UFFD_API };
    must(ioctl(file, UFFDIO_API, &api), "UFFDIO_API");
    struct uffdio_register with = { { (unsigned long)at, PAGES * PAGE }, UFFDIO_REGISTER_MODE_WP, 0 };
    must(ioctl(file, UFFDIO_REGISTER, &with), "UFFDIO_REGISTER");
    write_all(at, PAGES);
}

static void kind_guards(void)
{
    char *at = memory(PAGES);
    for (size_t page = 0; page < PAGES; page += 64)
        must(madvise(at + page * PAGE, PAGE, GUARD_INSTALL), "guard_install");
    for (size_t page = 0; page < PAGES; page++)
        if (page % 64) at[page * PAGE] = 1;
    signal(SIGSEGV, jump);
    if (!sigsetjmp(back, 1)) at[0] = 1;
    must(madvise(at, PAGES / 2 * PAGE, GUARD_REMOVE), "guard_remove");
    write_all(at, PAGES / 2);
}

static void kind_dontunmap(void)
{
    char *at = memory(PAGES);
    write_all(at, PAGES);
    char *to = (char *)syscall(SYS_mremap, at, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | 4 /* DONTUNMAP */, NULL);
    if (to == MAP_FAILED) fail("mremap");
    write_all(at, PAGES / 2);
    write_all(to, PAGES);
}

static void kind_grow(void)
{
    /* The kernel maps from the top down: a hole above the mapping is what it can grow into. */
    char *at = memory(2 * PAGES);
    must(munmap(at + PAGES / 2 * PAGE, 3 * PAGES / 2 * PAGE), "munmap");
    write_all(at, PAGES / 2);
    for (size_t pages = PAGES / 2; pages < PAGES; pages += 40)
        if (mremap(at, pages * PAGE, (pages + 40) * PAGE, 0) == MAP_FAILED) fail("mremap");
    write_all(at, PAGES);
    at = mremap(at, 64 * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) fail("mremap");
    write_all(at, 2 * PAGES);
}

static void kind_refused(void)
{
    char *none = map(64, PROT_NONE, 0);
    signal(SIGSEGV, jump);
    for (int page = 0; page < 64; page++)
        if (!sigsetjmp(back, 1)) none[page * PAGE] = 1;
    for (int page = 0; page < 64; page++)
        if (pread(open("/proc/self/maps", O_RDONLY | O_CLOEXEC), none + page * PAGE, 8, 0) > 0) exit(2);
    must(mprotect(none, 32 * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    write_all(none, 32);
    write_all(memory(PAGES), PAGES);
}

static void kind_free(void)
{
    char *at = memory(PAGES);
    write_all(at, PAGES);
    for (size_t page = 0; page < PAGES; page += 24)
        must(madvise(at + page * PAGE, 12 * PAGE, MADV_FREE), "free");
    write_all(at, PAGES);
    must(madvise(at, PAGES * PAGE, MADV_DONTNEED), "dontneed");
    write_all(at, PAGES);
}

static void kind_many(void)
{
    write_all(memory(64), 64);
    for (int number = 0; number < 300; number++) {
        if (!fork()) {
            write_all(memory(32), 32);
            _exit(0);
        }
        wait(NULL);
    }
}

static void kind_fails(void)
{
    write_all(memory(PAGES), PAGES);
    exit(3);
}

static void kind_killed(void)
{
    write_all(memory(PAGES), PAGES);
    kill(getpid(), SIGKILL);
}

#define KIND(name) { #name, kind_##name }
static const struct { const char *name; void (*run)(void); } kinds[] = {
    KIND(populate), KIND(madvise_populate), KIND(mlock), KIND(mlockall), KIND(direct), KIND(vmwrite),
    KIND(thp_disable), KIND(userfaultfd), KIND(guards), KIND(dontunmap), KIND(grow), KIND(refused), KIND(free),
    KIND(many), KIND(fails), KIND(killed),
};

int main(int count, char **words)
{
    for (size_t at = 0; count == 2 && at < sizeof kinds / sizeof *kinds; at++)
        if (!strcmp(words[1], kinds[at].name)) {
            kinds[at].run();
            return 0;
        }
    fprintf(stderr, "no such kind\n");
    return 2;
}
