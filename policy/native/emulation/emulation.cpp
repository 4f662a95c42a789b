/* Runs a launch on the processor: blocks one after another, a fiber for each thread of a block. See emulation.h.
 *
 * A fiber starts by setcontext and changes places by _longjmp, which unlike swapcontext asks the kernel nothing: a shuffle is
 * 64 changes. glibc's checked longjmp would take them for mistakes.
 */
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../cuda/kernels.cu"
#include "faulty.cu"

namespace emulation {

thread_local Here here;

namespace {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 128 << 10, GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xA5;

enum class State { Ready, AtBlock, AtWarp, Done };

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::unique_ptr<char[]> stack{new char[STACK]};
    State state;
    bool has_started;
    /* Two slots: who is past a shuffle may be at the next before its neighbours have read this one's. */
    unsigned long long slots[2];
    unsigned n_shuffles;
};

struct Block {
    jmp_buf scheduler;
    std::vector<std::unique_ptr<Fiber>> fibers;
    unsigned n = 0, running = 0;
    std::function<void()> kernel;
};
thread_local Block block;

[[noreturn]] void enter() {
    block.kernel();
    block.fibers[block.running]->state = State::Done;
    _longjmp(block.scheduler, 1);
}

__attribute__((noinline)) void wait(State state) {
    Fiber &own = *block.fibers[block.running];
    own.state = state;
    if (_setjmp(own.place) == 0) _longjmp(block.scheduler, 1);
}

/* Runs a fiber until it waits or ends. */
__attribute__((noinline)) void resume(unsigned i) {
    Fiber &fiber = *block.fibers[i];
    block.running = i;
    here.thread = {i, 0, 0};
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.has_started) _longjmp(fiber.place, 1);
    fiber.has_started = true;
    setcontext(&fiber.start);
}

/* Sets fibers first..last free if all of them wait for the same. */
bool release(unsigned first, unsigned last, State state) {
    for (unsigned i = first; i < last; ++i)
        if (block.fibers[i]->state != state) return false;
    for (unsigned i = first; i < last; ++i) block.fibers[i]->state = State::Ready;
    return true;
}

/* Ascending, descending, or shuffled anew each time. */
struct Order {
    unsigned schedule;
    std::mt19937 random;

    std::vector<unsigned> of(unsigned n) {
        std::vector<unsigned> order(n);
        for (unsigned i = 0; i < n; ++i) order[i] = schedule == 1 ? n - 1 - i : i;
        if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
        return order;
    }
};

/* Runs one block to its end; says what went wrong. */
std::string run_block(Order &order) {
    while (block.fibers.size() < block.n) block.fibers.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < block.n; ++i) {
        Fiber &fiber = *block.fibers[i];
        fiber.state = State::Ready, fiber.n_shuffles = 0, fiber.has_started = false;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
    }
    while (true) {
        /* A warp runs on for as long as it can: other warps lag as far behind as the block's barriers allow. */
        for (unsigned warp : order.of(block.n / LANES)) {
            const unsigned first = warp * LANES;
            do
                for (unsigned lane : order.of(LANES))
                    if (block.fibers[first + lane]->state == State::Ready) resume(first + lane);
            while (release(first, first + LANES, State::AtWarp));
        }
        if (release(0, block.n, State::Done)) return "";
        if (!release(0, block.n, State::AtBlock))
            return "a part of a block or warp never reaches the barrier at which the rest waits";
    }
}

}  // namespace

void block_barrier() { wait(State::AtBlock); }

void warp_barrier() { wait(State::AtWarp); }

unsigned lane() { return block.running % LANES; }

unsigned long long exchange(unsigned long long bits, unsigned lane) {
    const unsigned own = block.running, slot = block.fibers[own]->n_shuffles++ % 2;
    block.fibers[own]->slots[slot] = bits;
    wait(State::AtWarp);
    return block.fibers[own / LANES * LANES + lane]->slots[slot];
}

namespace {

enum Kind : uint32_t { Pointer, Int, Long, Float };

struct Argument {
    uint32_t kind;
    /* An address, an integer, or the bits of a float. */
    uint64_t bits;
};

template <typename T>
struct Read {
    static_assert(std::is_pointer<T>::value, "a parameter of a kernel is a pointer, an int, a long long or a float");
    static constexpr Kind kind = Pointer;
    static T from(const Argument &argument) { return reinterpret_cast<T>(argument.bits); }
};
template <>
struct Read<int> {
    static constexpr Kind kind = Int;
    static int from(const Argument &argument) { return static_cast<int>(argument.bits); }
};
template <>
struct Read<long long> {
    static constexpr Kind kind = Long;
    static long long from(const Argument &argument) { return static_cast<long long>(argument.bits); }
};
template <>
struct Read<float> {
    static constexpr Kind kind = Float;
    static float from(const Argument &argument) {
        const uint32_t bits = static_cast<uint32_t>(argument.bits);
        float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};

/* Binds arguments to a kernel's parameters; nothing if their number or kinds differ. */
using Bind = std::function<void()> (*)(const Argument *, size_t);

template <typename Kernel, Kernel kernel>
struct Binder;
template <typename... T, void (*kernel)(T...)>
struct Binder<void (*)(T...), kernel> {
    template <size_t... i>
    static std::function<void()> bind(const Argument *arguments, std::index_sequence<i...>) {
        const bool fits[] = {(arguments[i].kind == Read<T>::kind)...};
        if (!std::all_of(std::begin(fits), std::end(fits), [](bool fit) { return fit; })) return nullptr;
        return [=] { kernel(Read<T>::from(arguments[i])...); };
    }
    static std::function<void()> bind(const Argument *arguments, size_t n) {
        return n == sizeof...(T) ? bind(arguments, std::index_sequence_for<T...>{}) : nullptr;
    }
};

struct Entry {
    const char *name;
    Bind bind;
};
#define ENTRY(kernel) {#kernel, Binder<decltype(&kernel), &kernel>::bind}
const Entry KERNELS[] = {
    ENTRY(attention_forward_64), ENTRY(attention_forward_128), ENTRY(attention_deltas), ENTRY(attention_slope_q_64),
    ENTRY(attention_slope_q_128), ENTRY(attention_slopes_kv_64), ENTRY(attention_slopes_kv_128), ENTRY(rope),
    ENTRY(swiglu_forward), ENTRY(swiglu_backward), ENTRY(adam_w), ENTRY(sums_of_squares), ENTRY(embedding_forward),
    ENTRY(embedding_pieces), ENTRY(embedding_rows), ENTRY(log_prob_forward), ENTRY(log_prob_backward),
    ENTRY(rms_norm_forward), ENTRY(rms_norm_backward), ENTRY(rms_norm_gain_parts), ENTRY(sum_parts),
    ENTRY(faulty_exit), ENTRY(faulty_race), ENTRY(faulty_shared),
};

std::string run(const char *name, const uint32_t *grid, uint32_t threads, uint32_t shared_bytes, const Argument *arguments,
                size_t n_arguments, uint32_t schedule) {
    const auto entry = std::find_if(std::begin(KERNELS), std::end(KERNELS), [=](const Entry &e) { return !strcmp(e.name, name); });
    if (entry == std::end(KERNELS)) return "there is no such kernel";
    if (threads % LANES != 0 || threads == 0 || threads > 1024) return "a block is whole warps, at most 1024 threads";
    block.kernel = entry->bind(arguments, n_arguments);
    if (!block.kernel) return "the arguments are not those that the kernel takes";
    block.n = threads;
    std::vector<char> memory(shared_bytes + GUARD + 16);
    char *shared = memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16;
    here.shared = reinterpret_cast<float *>(shared);
    here.block_size = {threads, 1, 1}, here.grid = {grid[0], grid[1], grid[2]};
    Order order{schedule, std::mt19937(schedule)};
    for (unsigned i : order.of(grid[0] * grid[1] * grid[2])) {
        here.block = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
        memset(shared, 0xFF, shared_bytes);
        memset(shared + shared_bytes, GUARD_BYTE, GUARD);
        const std::string fault = run_block(order);
        if (!fault.empty()) return fault;
        const char *end = shared + shared_bytes;
        if (!std::all_of(end, end + GUARD, [](char c) { return static_cast<unsigned char>(c) == GUARD_BYTE; }))
            return "a block writes past its shared memory";
    }
    return "";
}

}  // namespace
}  // namespace emulation

/* 0, or 1 with the reason in `message`. */
extern "C" int honed_emulated_launch(const char *name, const uint32_t *grid, uint32_t threads, uint32_t shared_bytes,
                                     const emulation::Argument *arguments, size_t n_arguments, uint32_t schedule,
                                     char *message, size_t message_len) {
    const std::string fault = emulation::run(name, grid, threads, shared_bytes, arguments, n_arguments, schedule);
    snprintf(message, message_len, "%s", fault.c_str());
    return !fault.empty();
}
