# Whether the CUDA device is built, and with what. Included by the Makefile.
#
# Out: WITH_CUDA (1 or empty), NVCC, NVCC_FLAGS, CUDA_CPPFLAGS, CUDA_INCLUDE, CUDA_LIBS,
# CUPTI_LIB_DIR (where CUPTI is, or empty).

CUDA ?= auto
# 90a is Hopper with what later generations have not: products of matrices use it.
CUDA_ARCH ?= 80 90a 100
NVCC ?= $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))

ifneq ($(filter-out auto 0 1,$(CUDA)),)
$(error CUDA=$(CUDA): it is 0, 1 or auto)
endif
WITH_CUDA :=
CUDA_MISSING :=
ifneq ($(CUDA),0)
CUDA_RELEASE := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p'))
CUDA_HOME := $(if $(NVCC),$(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC)))))
CUDA_LIB_DIR := $(patsubst %/libcudart_static.a,%,$(firstword $(wildcard $(addsuffix /libcudart_static.a,\
  $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/x86_64-linux/lib $(CUDA_HOME)/targets/sbsa-linux/lib))))
ifeq ($(CUDA_RELEASE),)
CUDA_MISSING := nvcc was not found
else ifneq ($(shell test $(CUDA_RELEASE) -ge 13 && echo new),new)
CUDA_MISSING := $(NVCC) is of CUDA $(CUDA_RELEASE), 13 is needed
else ifeq ($(CUDA_LIB_DIR),)
CUDA_MISSING := there is no libcudart_static.a under $(CUDA_HOME)
endif
WITH_CUDA := $(if $(CUDA_MISSING),,1)
ifeq ($(CUDA)$(WITH_CUDA),1)
$(error CUDA=1: $(CUDA_MISSING); CUDA=0 builds without the CUDA device)
endif
endif

ifneq ($(WITH_CUDA),)
CUPTI_LIB_DIR := $(patsubst %/libcupti.so,%,$(firstword $(wildcard $(addsuffix /libcupti.so,\
  $(CUDA_LIB_DIR) $(CUDA_HOME)/extras/CUPTI/lib64))))
CUDA_INCLUDE := -isystem $(CUDA_HOME)/include -isystem $(CUDA_HOME)/extras/CUPTI/include
CUDA_LIBS := -L$(CUDA_LIB_DIR) -lcudart_static -ldl -lrt
# C in C++'s clothes: no exceptions, no run-time types, so that nothing of the C++ library is linked.
CUDA_CPPFLAGS = -D_GNU_SOURCE -Iinclude -Isrc
NVCC_FLAGS = -std=c++17 -O3 -lineinfo -Werror all-warnings --threads 0 \
  -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
  $(foreach arch,$(CUDA_ARCH),-gencode arch=compute_$(arch),code=sm_$(arch))
endif
