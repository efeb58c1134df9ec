#!/bin/sh
# Installs what `make` built. Called by `make install` as: install.sh DEST PREFIX BUILD VERSION LIBS.
# DEST is where files go now ($DESTDIR$PREFIX), PREFIX what the installed files name, LIBS what a static link needs for
# the CUDA device, or "". Nothing outside DEST is touched.
set -eu

if [ $# -ne 5 ]; then
	echo "usage: $0 DEST PREFIX BUILD VERSION LIBS" >&2
	exit 2
fi
dest=$1 prefix=$2 build=$3 version=$4 cuda_libs=$5
major=${version%%.*}

put() { # mode, folder under DEST, files...
	mode=$1 folder=$dest/$2
	shift 2
	install -d "$folder"
	install -m "$mode" "$@" "$folder"
}

put 644 include/epgraph include/epgraph/*.h
put 644 lib "$build/libepgraph.a"
put 755 lib "$build/libepgraph.so.$version"
ln -sf "libepgraph.so.$version" "$dest/lib/libepgraph.so.$major" # the soname: what programs look for
ln -sf "libepgraph.so.$major" "$dest/lib/libepgraph.so"          # what the linker looks for
put 755 bin "$build/epgraph"
put 644 share/man/man1 docs/man/epgraph.1

# Libs.private, not Requires.private: a user of the shared library needs no development package of OpenBLAS or jansson,
# and Debian's openblas.pc asks for gfortran's library, which a static link does not need.
install -d "$dest/lib/pkgconfig"
cat >"$dest/lib/pkgconfig/epgraph.pc" <<END
prefix=$prefix
exec_prefix=\${prefix}
libdir=\${exec_prefix}/lib
includedir=\${prefix}/include

Name: epgraph
Description: Expert-parallel dispatch and combine inside captured graphs
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lepgraph
Libs.private: -lopenblas -ljansson -lm${cuda_libs:+ $cuda_libs} -pthread
END
chmod 644 "$dest/lib/pkgconfig/epgraph.pc"
