/* Hides AVX-512, AMX, bfloat16 and AVX-VNNI from a process, as on a processor that has AVX2 alone: LD_PRELOAD=cpuid_mask.so COMMAND.
 *
 * Linux can make CPUID fault in user mode (arch_prctl, where processor and hypervisor allow it). The fault is handled by executing
 * CPUID and clearing bits of its answer. Every library that asks the processor by CPUID is limited so, and every child process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_CPUID_SET 0x1012
#define BIT(n) (1u << (n))

static long allow_cpuid(unsigned long on) { return syscall(SYS_arch_prctl, ARCH_CPUID_SET, on); }

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (code[0] != 0x0F || code[1] != 0xA2) _exit(139); /* a fault of the program's own */
    unsigned leaf = registers[REG_RAX], sub = registers[REG_RCX], a, b, c, d;
    allow_cpuid(1);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(sub));
    allow_cpuid(0);
    if (leaf == 7 && sub == 0) { /* AVX-512 and its extensions; AMX */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && sub == 1) { /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        d = 0;
    } else if (leaf == 0xD && sub == 0) { /* saved state: x87, SSE, AVX */
        a &= 7;
        d = 0;
    } else if ((leaf == 0xD && sub > 2) || leaf == 0x1D || leaf == 0x1E || leaf == 0x24) {
        a = b = c = d = 0;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

/* Programs may neither take the signal over nor block it. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (!real) real = dlsym(RTLD_NEXT, "sigaction");
    return real(number, number == SIGSEGV ? NULL : new, old);
}

sighandler_t signal(int number, sighandler_t handler) {
    static sighandler_t (*real)(int, sighandler_t);
    if (!real) real = dlsym(RTLD_NEXT, "signal");
    return number == SIGSEGV ? SIG_DFL : real(number, handler);
}

#define BLOCK(name)                                                                  \
    int name(int how, const sigset_t *set, sigset_t *old) {                          \
        static int (*real)(int, const sigset_t *, sigset_t *);                       \
        if (!real) real = dlsym(RTLD_NEXT, #name);                                   \
        sigset_t without;                                                            \
        if (!set || how == SIG_UNBLOCK) return real(how, set, old);                  \
        without = *set;                                                              \
        sigdelset(&without, SIGSEGV);                                                \
        return real(how, &without, old);                                             \
    }
BLOCK(pthread_sigmask)
BLOCK(sigprocmask)

__attribute__((constructor)) static void begin(void) {
    int (*real)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    real(SIGSEGV, &action, NULL);
    allow_cpuid(0);
}
