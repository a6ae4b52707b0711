/* What the compiler is told about the processor. */
#ifndef ER_ISA_H
#define ER_ISA_H

/* One file can be compiled for a wider instruction set by a pragma inside it; gcc and clang each
 * have their own. target_clones would need ifunc, which musl lacks. */
#if defined(__x86_64__) && defined(__GNUC__)
#define ER_MULTIPLE_ISA 1
#else
#define ER_MULTIPLE_ISA 0
#endif

/* The network's wider files hold intrinsics, and clang checks those against the target that each
 * function names for itself, which the shared loops cannot: gcc only. */
#if ER_MULTIPLE_ISA && !defined(__clang__)
#define ER_NETWORK_FILES 1
#else
#define ER_NETWORK_FILES 0
#endif

/* The processor family: what every processor of it can run, the baseline of the compiler. */
#if defined(__x86_64__)
#define ER_ISA_BASELINE "x86-64"
#elif defined(__aarch64__)
#define ER_ISA_BASELINE "aarch64"
#elif defined(__arm__)
#define ER_ISA_BASELINE "arm"
#else
#define ER_ISA_BASELINE "other"
#endif

#endif
