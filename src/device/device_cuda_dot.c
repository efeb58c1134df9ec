/* A CUDA graph in Graphviz's DOT language, in the same form as the host device's: n0, n1, ... with a label each.
 * cudaGraphDebugDotPrint was not used: it writes to a file, and knows no names of host functions. */
#include <stdio.h>
#include <stdlib.h>
#include "device/device_cuda_int.h"

typedef struct walk {
    cudaGraphNode_t *nodes;
    cudaGraphNode_t *from, *to;
    cudaGraphEdgeData *edge_data;
    struct place *places;
    size_t node_count, edge_count;
    void (*write)(void *ctx, const char *text);
    void *ctx;
} walk;

/* A node's number, found by its handle. */
typedef struct place {
    cudaGraphNode_t node;
    size_t index;
} place;

static int compare_places(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t)((const place *)a)->node, right = (uintptr_t)((const place *)b)->node;
    return left < right ? -1 : left > right;
}

static size_t index_of(const walk *w, cudaGraphNode_t node)
{
    place key = {node, 0};
    const place *found = bsearch(&key, w->places, w->node_count, sizeof key, compare_places);
    return found ? found->index : 0;
}

static cudaError_t read_graph(walk *w, cudaGraph_t graph)
{
    cudaError_t error = cudaGraphGetNodes(graph, NULL, &w->node_count);
    if (error == cudaSuccess)
        error = cudaGraphGetEdges(graph, NULL, NULL, NULL, &w->edge_count);
    if (error != cudaSuccess)
        return error;
    w->nodes = epg__zalloc(w->node_count, sizeof(cudaGraphNode_t), "a graph's nodes");
    w->places = epg__zalloc(w->node_count, sizeof *w->places, "a graph's nodes");
    w->from = epg__zalloc(w->edge_count, sizeof(cudaGraphNode_t), "a graph's edges");
    w->to = epg__zalloc(w->edge_count, sizeof(cudaGraphNode_t), "a graph's edges");
    w->edge_data = epg__zalloc(w->edge_count, sizeof *w->edge_data, "a graph's edges");
    if (!w->nodes || !w->places || !w->from || !w->to || !w->edge_data)
        return cudaErrorMemoryAllocation;
    if (w->node_count)
        error = cudaGraphGetNodes(graph, w->nodes, &w->node_count);
    if (w->edge_count && error == cudaSuccess)
        error = cudaGraphGetEdges(graph, w->from, w->to, w->edge_data, &w->edge_count);
    return error;
}

static void number_nodes(walk *w)
{
    for (size_t i = 0; i < w->node_count; i++)
        w->places[i] = (place){w->nodes[i], i};
    qsort(w->places, w->node_count, sizeof *w->places, compare_places);
}

static const char *type_name(enum cudaGraphNodeType type)
{
    switch (type) {
    case cudaGraphNodeTypeKernel: return "kernel";
    case cudaGraphNodeTypeMemcpy: return "memcpy";
    case cudaGraphNodeTypeMemset: return "memset";
    case cudaGraphNodeTypeHost: return "host function";
    case cudaGraphNodeTypeGraph: return "graph";
    case cudaGraphNodeTypeEmpty: return "empty";
    case cudaGraphNodeTypeWaitEvent: return "wait for an event";
    case cudaGraphNodeTypeEventRecord: return "record an event";
    case cudaGraphNodeTypeMemAlloc: return "allocate";
    case cudaGraphNodeTypeMemFree: return "free";
    default: return "node";
    }
}

static const char *shape_of(enum cudaGraphNodeType type)
{
    switch (type) {
    case cudaGraphNodeTypeKernel: return "box";
    case cudaGraphNodeTypeHost: return "ellipse";
    default: return "parallelogram";
    }
}

/* The kernel's own name or the host function's; the type's where there is none (a kernel of the driver API, say). */
static const char *label_of(cudaGraphNode_t node, enum cudaGraphNodeType type)
{
    const char *name = NULL;
    if (type == cudaGraphNodeTypeKernel) {
        struct cudaKernelNodeParams params;
        if (cudaGraphKernelNodeGetParams(node, &params) != cudaSuccess ||
            cudaFuncGetName(&name, params.func) != cudaSuccess) {
            cudaGetLastError();
            name = NULL;
        }
    } else if (type == cudaGraphNodeTypeHost) {
        struct cudaHostNodeParams params;
        if (cudaGraphHostNodeGetParams(node, &params) == cudaSuccess)
            name = epg__cuda_host_name(&params);
        else
            cudaGetLastError();
    }
    return name ? name : type_name(type);
}

static void write_node(const walk *w, size_t index)
{
    char line[128];
    enum cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
    if (cudaGraphNodeGetType(w->nodes[index], &type) != cudaSuccess)
        cudaGetLastError();
    snprintf(line, sizeof line, "  n%zu [shape=%s, label=\"", index, shape_of(type));
    w->write(w->ctx, line);
    epg__dot_escape(label_of(w->nodes[index], type), w->write, w->ctx);
    snprintf(line, sizeof line, "\\n%zu\"];\n", index);
    w->write(w->ctx, line);
}

static void write_graph(const walk *w)
{
    char line[64];
    w->write(w->ctx, "digraph epgraph {\n");
    for (size_t i = 0; i < w->node_count; i++)
        write_node(w, i);
    for (size_t i = 0; i < w->edge_count; i++) {
        snprintf(line, sizeof line, "  n%zu -> n%zu;\n", index_of(w, w->from[i]), index_of(w, w->to[i]));
        w->write(w->ctx, line);
    }
    w->write(w->ctx, "}\n");
}

epg_status epg__cuda_graph_dot(epg_device *device, epg_graph graph, void (*write)(void *ctx, const char *text),
                                void *ctx)
{
    epg__cuda_call call;
    walk w = {.write = write, .ctx = ctx};
    EPG_TRY(epg__cuda_enter(device, "epg_graph_dot", &call));
    cudaError_t error = read_graph(&w, (cudaGraph_t)graph);
    if (error == cudaSuccess) {
        number_nodes(&w);
        write_graph(&w);
    }
    free(w.nodes);
    free(w.places);
    free(w.from);
    free(w.to);
    free(w.edge_data);
    return epg__cuda_leave(&call, error);
}
