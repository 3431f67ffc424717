// Included first where a wheel is compiled on a Linux newer than those it is for: what newer releases of glibc and of
// libstdc++ have moved or renewed is taken in the form that glibc 2.28 and GCC 8's libstdc++ have too, as torch's own
// wheels do. tools/wheels.py checks the result.
#pragma once

#include <exception>
#include <new>
#include <sstream>

#if !defined(__GLIBC__)
#elif defined(__x86_64__)
#define FASTACT_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define FASTACT_FIRST_GLIBC "GLIBC_2.17"
#endif

#if defined(FASTACT_FIRST_GLIBC)

// 2.29 renewed the first three, which set errno; 2.34 moved the others into libc.so.6. In older ones those are in
// libraries that libtorch_cpu.so opens.
#define FASTACT_FROM_FIRST(name) __asm__(".symver " #name "," #name "@" FASTACT_FIRST_GLIBC)
FASTACT_FROM_FIRST(exp);
FASTACT_FROM_FIRST(log);
FASTACT_FROM_FIRST(pow);
FASTACT_FROM_FIRST(dlerror);
FASTACT_FROM_FIRST(dlopen);
FASTACT_FROM_FIRST(dlsym);
FASTACT_FROM_FIRST(pthread_once);
FASTACT_FROM_FIRST(pthread_rwlock_rdlock);
FASTACT_FROM_FIRST(pthread_rwlock_unlock);
FASTACT_FROM_FIRST(pthread_rwlock_wrlock);

// 2.32 tells by this whether there is one thread only, when libstdc++ counts without atomic operations. A library that
// says no is right in any case.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}

// Of GCC 9's libstdc++ and of GCC 11's. libtorch_cpu.so has them too, by which a linker takes them from there: but of
// torch we ask for nothing beside its own functions.
template std::ostringstream::basic_ostringstream();
template std::stringstream::basic_stringstream();
#if __cplusplus >= 202002L
template std::string std::stringbuf::str() &&;
#endif
namespace std {
__attribute__((weak)) void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// GCC 11's headers have the destructor of std::exception_ptr inline, around a function that older ones keep to
// themselves. What they have is the destructor, as a function, still.
extern "C" void fastact_release(void* exception_ptr);
__asm__(".symver fastact_release,_ZNSt15__exception_ptr13exception_ptrD1Ev@CXXABI_1.3.3");
namespace std::__exception_ptr {
__attribute__((weak)) void exception_ptr::_M_release() noexcept { fastact_release(this); }
}  // namespace std::__exception_ptr

#endif
