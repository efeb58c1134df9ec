# epgraph. `make` builds, `make run` shows it at work, `make test` tests it; each sets itself up.
#
#   make CC=clang          another compiler
#   make CUDA=0            without the CUDA device; CUDA=1: with it, or an error that says what is missing. Left unset,
#                          it is built where CUDA 13's nvcc is found (NVCC=... names one)
#   make CUDA_ARCH="90a"   GPU generations to build kernels for (80 90a 100); 90 instead of 90a: without wgmma
#   make gpu-test          the tests of devices on the GPU, and those that need one; skipped, with the reason, where
#                          there is none. make gpu-sanitize: under compute-sanitizer
#   make test-asan         the tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make test-tsan         the tests under ThreadSanitizer
#   make models            every run of the protocol's model, the long ones too (make test has the short ones)
#   make install PREFIX=/usr DESTDIR=...

VERSION := $(shell sed -n 's/^.define EPG_VERSION_STRING "\(.*\)"/\1/p' include/epgraph/epgraph.h)
PREFIX ?= /usr/local
BUILD ?= build
include tools/cuda.mk

# -ffp-contract=off: the same bits whichever compiler built the kernels.
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings \
  -Wvla
CFLAGS ?= -O2 -g
override CPPFLAGS += -D_GNU_SOURCE -Iinclude -Isrc
override CFLAGS += -std=c11 -fPIC -fvisibility=hidden -ffp-contract=off -pthread $(WARNINGS) $(SANITIZE)
override LDFLAGS += -pthread $(SANITIZE)
# V=1 shows the commands.
QUIET := $(if $(V),,@)
LIBS := -lopenblas -ljansson -lm $(CUDA_LIBS)

# *_cuda*.c and *.cu make the CUDA device, *_nocuda.c stand in for them.
CUDA_C_SOURCES := $(wildcard src/*/*_cuda*.c)
CUDA_ABSENT_SOURCES := $(wildcard src/*/*_nocuda.c)
LIB_SOURCES := $(filter-out $(CUDA_C_SOURCES) $(CUDA_ABSENT_SOURCES),$(wildcard src/*/*.c))
LIB_SOURCES += $(if $(WITH_CUDA),$(CUDA_C_SOURCES) $(wildcard src/*/*.cu),$(CUDA_ABSENT_SOURCES))
CLI_SOURCES := $(wildcard cli/*.c)
EXAMPLE_SOURCES := $(wildcard examples/*.c)
with_cuda_or_not = $(filter-out $(if $(WITH_CUDA),%_nocuda.c,%_cuda.c %_cuda.cu),$(1))
SUPPORT_SOURCES := $(call with_cuda_or_not,$(wildcard tests/support/*.c tests/support/*.cu))
# Bodies for either device, and tests of what a GPU alone has.
DEVICE_TEST_SOURCES := $(addprefix tests/,unit/test_device.c unit/test_capture.c unit/test_memory_async.c \
  unit/test_timestamp.c conform/test_runner.c conform/test_runner_kernels.c conform/test_runner_observe.c \
  conform/test_model_marks.c)
DEVICE_TEST_SOURCES += tests/conform/test_runner_scope.c tests/conform/test_quantise_values.c
DEVICE_TEST_SOURCES += $(addprefix tests/,conform/test_replay_contract.c multi/test_rejoin.c multi/test_admission.c)
DEVICE_TEST_SOURCES += tests/conform/test_experts.c tests/conform/test_layer.c
GPU_TEST_SOURCES := $(wildcard tests/gpu/test_*.c)
GPU_SUPPORT_SOURCES := $(wildcard tests/gpu/*_cuda.cu) $(filter-out $(GPU_TEST_SOURCES),$(wildcard tests/gpu/*.c))
TEST_SOURCES := $(wildcard tests/unit/test_*.c tests/conform/test_*.c tests/multi/test_*.c tests/cli/test_*.c)

# Libraries that stand in for other runtimes: each .c becomes a .so.
STANDIN_SOURCES := $(wildcard tests/standins/*/lib*.c tests/standins/bare/*/*/*.c)
STANDINS := $(patsubst %.c,$(BUILD)/%.so,$(STANDIN_SOURCES))

objects = $(patsubst %,$(BUILD)/%.o,$(basename $(1)))
STATIC := $(BUILD)/libepgraph.a
SHARED := $(BUILD)/libepgraph.so.$(VERSION)
CLI := $(BUILD)/epgraph
# Comparisons with bare CUDA.
BENCH_SUPPORT_SOURCES := $(wildcard bench/*_cuda.cu)
BENCH_LIBRARY_SOURCES := $(if $(CUPTI_LIB_DIR),$(wildcard bench/lib*.c))
BENCH_SOURCES := $(if $(WITH_CUDA),$(filter-out bench/lib%,$(wildcard bench/*.c)) $(BENCH_LIBRARY_SOURCES))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(filter-out bench/lib%,$(BENCH_SOURCES))) \
  $(patsubst bench/%.c,$(BUILD)/bench/%.so,$(BENCH_LIBRARY_SOURCES))
# Loops in C of comparisons in Python.
BENCH_LOOPS := $(patsubst %.c,$(BUILD)/%.so,$(wildcard bench/loops/*.c))
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(EXAMPLE_SOURCES))
TESTS := $(patsubst %.c,$(BUILD)/%,$(TEST_SOURCES))
DEVICE_TESTS := $(patsubst %.c,$(BUILD)/%,$(DEVICE_TEST_SOURCES))
GPU_TESTS := $(if $(WITH_CUDA),$(patsubst %.c,$(BUILD)/%,$(GPU_TEST_SOURCES)))
# Tests make the Nth allocation fail (tests/support/oom.c).
WRAP := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign,--wrap=free,--wrap=pthread_create

.PHONY: all run test tests models gpu-test gpu-sanitize test-asan test-tsan install clean setup setup-tests check-setup
.SECONDARY:

all: check-setup $(STATIC) $(SHARED) $(if $(CLI_SOURCES),$(CLI)) $(EXAMPLES) $(BENCHES) $(BENCH_LOOPS)

check-setup:
	@CC="$(CC)" tools/setup.sh --check
setup:
	@CC="$(CC)" tools/setup.sh
setup-tests:
	@CC="$(CC)" tools/setup.sh --tests

run: setup
	@$(MAKE) --no-print-directory all
	@tools/run.sh $(CLI)

tests: $(TESTS) $(GPU_TESTS) $(STANDINS)
test: setup-tests
	@$(MAKE) --no-print-directory all tests
	@tests/run.sh $(BUILD) $(TESTS) models/check.sh tests/python/run.sh

# The runs of the model that take minutes, too.
models: setup-tests
	@EPGRAPH_BUILD=$(BUILD) models/check.sh --all

gpu-test: setup-tests
	@$(MAKE) --no-print-directory all tests
	@EPGRAPH_TEST_DEVICE=cuda EPGRAPH_TEST_ALL_MAY_SKIP=1 tests/run.sh $(BUILD) $(DEVICE_TESTS) $(GPU_TESTS) \
	  tests/python/run.sh

# Errors of the API are what many tests provoke, so they are not reported. Kernels run one at a time there.
SANITIZER ?= $(CUDA_HOME)/bin/compute-sanitizer
gpu-sanitize: setup-tests
	@$(MAKE) --no-print-directory all tests
	@for tool in memcheck initcheck synccheck racecheck; do \
	  echo "== $$tool"; \
	  EPGRAPH_TEST_DEVICE=cuda EPGRAPH_TEST_SERIAL=1 EPGRAPH_TEST_ALL_MAY_SKIP=1 \
	  EPGRAPH_TEST_WRAP="$(SANITIZER) --tool $$tool --report-api-errors no --error-exitcode 1" \
	  tests/run.sh $(BUILD) $(DEVICE_TESTS) $(filter-out %/test_conform_cuda,$(GPU_TESTS)) || exit 1; \
	done

test-asan: setup-tests
	@$(MAKE) --no-print-directory BUILD=$(BUILD)-asan CFLAGS="-O1 -g -fno-omit-frame-pointer" \
	  SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all" sanitized
# Without programs of one thread that take long: nothing in them can race.
test-tsan: setup-tests
	@$(MAKE) --no-print-directory BUILD=$(BUILD)-tsan CFLAGS="-O1 -g" SANITIZE="-fsanitize=thread" \
	  LEAVE_OUT="unit/test_gemm_tile unit/test_quantise unit/test_step_plan cli/test_cli_simulate" sanitized
.PHONY: sanitized
sanitized: all tests
	@tests/run.sh $(BUILD) $(filter-out $(addprefix $(BUILD)/tests/,$(LEAVE_OUT)),$(TESTS))

# Changes when CUDA goes in or out, so that the libraries follow.
VARIANT := $(BUILD)/with-cuda-$(or $(WITH_CUDA),0)
$(VARIANT):
	@mkdir -p $(@D) && rm -f $(BUILD)/with-cuda-* && touch $@

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(QUIET)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.cu Makefile tools/cuda.mk
	@mkdir -p $(@D)
	$(QUIET)$(NVCC) $(CUDA_CPPFLAGS) $(NVCC_FLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/src/device/device_cuda%.o: override CPPFLAGS += $(CUDA_INCLUDE)

$(STATIC): $(call objects,$(LIB_SOURCES)) $(VARIANT)
	@rm -f $@
	$(QUIET)ar rcs $@ $(filter %.o,$^)

# The CUDA runtime inside stays inside: a program's own must not meet it.
$(SHARED): $(call objects,$(LIB_SOURCES)) $(VARIANT)
	$(QUIET)$(CC) $(LDFLAGS) -shared -Wl,-soname,libepgraph.so.$(basename $(basename $(VERSION))) -Wl,--as-needed \
	  -Wl,--exclude-libs,libcudart_static.a -o $@ $(filter %.o,$^) $(LIBS)

# $(BUILD)/link tells multi/test_mutants how to do the same.
$(CLI): $(call objects,$(CLI_SOURCES)) $(STATIC)
	@echo "CC='$(CC)' LIBS='$(LIBS)'" >$(BUILD)/link
	$(QUIET)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/examples/%: $(BUILD)/examples/%.o $(STATIC)
	$(QUIET)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/bench/%.o: override CPPFLAGS += $(CUDA_INCLUDE) -I.
$(BUILD)/bench/%.o: override CUDA_CPPFLAGS += -I.
$(BUILD)/bench/%: $(BUILD)/bench/%.o $(call objects,$(BENCH_SUPPORT_SOURCES)) $(STATIC)
	$(QUIET)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

# Libraries that CUDA loads into a program.
$(BUILD)/bench/lib%.so: $(BUILD)/bench/lib%.o
	$(QUIET)$(CC) $(LDFLAGS) -shared -o $@ $< -L$(CUPTI_LIB_DIR) -lcupti

$(BUILD)/bench/loops/%.so: $(BUILD)/bench/loops/%.o
	$(QUIET)$(CC) $(LDFLAGS) -shared -o $@ $<

# The command's pure parts have a unit test too.
$(BUILD)/tests/unit/test_workload: $(call objects,cli/workload.c cli/schedule.c cli/digest.c cli/options.c)
$(BUILD)/tests/unit/test_conform_ask: $(call objects,cli/conform_ask.c cli/options.c)
$(BUILD)/tests/unit/test_conform_ask: WRAP += -Wl,--wrap=epg_conform_run
$(BUILD)/tests/unit/test_bench_routing: $(call objects,cli/bench_routing.c cli/bench_times.c)
$(filter $(BUILD)/tests/unit/test_scope% %/test_runner_scope,$(TESTS)): | $(STANDINS)
# The same names are declared differently in different stand-ins, and looked up by name alone.
$(BUILD)/tests/standins/%.o: override CFLAGS += -Wno-missing-prototypes
$(BUILD)/tests/standins/%.so: $(BUILD)/tests/standins/%.o
	$(QUIET)$(CC) $(LDFLAGS) -shared -Wl,--no-as-needed -o $@ $< -lc
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(call objects,$(SUPPORT_SOURCES)) $(STATIC)
	$(QUIET)$(CC) $(LDFLAGS) $(WRAP) -o $@ $(filter %.o,$^) $(STATIC) -lcmocka $(LIBS)

$(BUILD)/tests/%.o: override CPPFLAGS += -Itests
$(BUILD)/tests/gpu/%.o: override CPPFLAGS += $(CUDA_INCLUDE)
$(BUILD)/tests/%.o: CUDA_CPPFLAGS += -Itests
$(GPU_TESTS): $(call objects,$(GPU_SUPPORT_SOURCES))

install: all
	tools/install.sh "$(DESTDIR)$(PREFIX)" "$(PREFIX)" "$(BUILD)" "$(VERSION)" "$(CUDA_LIBS)"

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan

ALL_SOURCES := $(LIB_SOURCES) $(CLI_SOURCES) $(EXAMPLE_SOURCES) $(SUPPORT_SOURCES) $(TEST_SOURCES) $(STANDIN_SOURCES) \
  $(GPU_TEST_SOURCES) $(GPU_SUPPORT_SOURCES) $(BENCH_SOURCES) $(BENCH_SUPPORT_SOURCES)
-include $(patsubst %.o,%.d,$(call objects,$(ALL_SOURCES)))
