// cuDNN of the card made of the processor: descriptors hold what they are given, a graph is executed operation by operation,
// one sequence after the other, in f32. So tensors, strides, offsets, masks, places and memory are looked at for real; what
// a real engine accepts and computes is not.
//
// `herd_fake_cudnn` makes it wrong on purpose, `herd_fake_cudnn_counts` tells what was done.

#include <algorithm>
#include <vector>

namespace cudnn {
enum { BAD_PARAM = 2000, NOT_SUPPORTED = 3000, FAILED = 5000 };
enum Kind { POINTWISE, ENGINE = 2, CONFIG, HEURISTIC, PLAN, CHOICE = 7, OP_POINTWISE = 13, GRAPH = 15, PACK, TENSOR, MATMUL,
            OP_MATMUL, REDUCTION = 21, OP_REDUCTION, OP_RESHAPE = 31 };
enum Data { F32 = 0, I32 = 4, BF16 = 9, BOOLEAN = 11 };
static const int SIZES[] = {8, 4, 1, 8, 4, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 4, 4};

static size_t version = 92801;
static std::string fault, last_error;
static int64_t made, runs, plans;
// Handles, and the stream that each works in.
static std::map<void*, void*> handles;

struct Desc {
    int kind;
    bool ready = false, alive = true;
    std::map<int, std::vector<char>> values;

    template <typename T> std::vector<T> all(int attribute) const {
        auto found = values.find(attribute);
        if (found == values.end()) return {};
        std::vector<T> list(found->second.size() / sizeof(T));
        std::memcpy(list.data(), found->second.data(), list.size() * sizeof(T));
        return list;
    }
    template <typename T> T one(int attribute, T otherwise = {}) const {
        auto list = all<T>(attribute);
        return list.size() == 1 ? list[0] : otherwise;
    }
    template <typename T> void put(int attribute, std::vector<T> list) {
        values[attribute].assign((const char*)list.data(), (const char*)(list.data() + list.size()));
    }
};

static int error(int code, std::string text) { return last_error = text, code; }

// Attributes that a kind cannot do without.
static std::vector<int> required(int kind) {
    switch (kind) {
        case POINTWISE: return {0, 1};
        case ENGINE: return {1300, 1301};
        case CONFIG: return {300};
        case HEURISTIC: return {200, 201};
        case PLAN: return {400, 401};
        case CHOICE: return {600, 601};
        case OP_POINTWISE: return {750, 751, 753};
        case GRAPH: return {800, 801};
        case PACK: return {1000, 1001, 1003};
        case TENSOR: return {900, 901, 902, 903, 906};
        case MATMUL: return {1500};
        case OP_MATMUL: return {1520, 1521, 1522, 1523};
        case REDUCTION: return {1600, 1601};
        case OP_REDUCTION: return {1610, 1611, 1612};
        case OP_RESHAPE: return {2200, 2201};
    }
    return {};
}

static Desc* make(int kind) { return made++, new Desc{kind}; }
static Desc* link(const Desc* desc, int attribute) { return desc->one<Desc*>(attribute); }

// Which of attention's graphs it is.
struct Shape {
    int products = 0;
    bool sums = false;
    int64_t scores = 0;
};
static Shape shape_of(const Desc* graph) {
    Shape shape;
    for (Desc* op : graph->all<Desc*>(801)) {
        if (op->kind == OP_MATMUL) {
            auto dims = link(op, 1522)->all<int64_t>(902);
            if (!shape.products++) shape.scores = 2 * dims[0] * dims[1] * dims[2] * dims[3];
        }
        shape.sums |= op->kind == OP_POINTWISE && link(op, 750)->one<int>(0) == 21;
    }
    return shape;
}
// Bytes that a plan works in, or an error below zero.
static int64_t workspace(const Desc* plan) {
    const Desc* config = link(plan, 401);
    const Desc* engine = link(config, 300);
    Shape shape = shape_of(link(engine, 1300));
    if (fault == "no engine" || engine->one<int64_t>(1301) == 1) return -1;
    bool ordered = false;
    for (Desc* choice : config->all<Desc*>(302)) ordered |= choice->one<int>(600) == 14 && choice->one<int64_t>(601) == 4;
    if (ordered && (!shape.sums || version < 92600 || fault == "no order")) return -1;
    return shape.products == 2 ? 256 : shape.sums ? 4096 : shape.scores + 512;
}

// Values from one row to the next; keys are seen as columns too.
static int64_t row_of(const std::vector<int64_t>& strides) { return std::max(strides[2], strides[3]); }

// The values of a tensor for one sequence.
struct Values {
    const Desc* desc;
    std::vector<int64_t> dims, strides;
    int data;
    char* memory = nullptr;  // where the sequence begins, if it has a place
    int64_t span = INT64_MAX;  // values of the sequence there
    std::vector<float>* own = nullptr;

    size_t at(int64_t h, int64_t r, int64_t c) const {
        return (dims[1] > 1 ? h * strides[1] : 0) + (dims[2] > 1 ? r * strides[2] : 0) + (dims[3] > 1 ? c * strides[3] : 0);
    }
    float get(int64_t h, int64_t r, int64_t c) const {
        const size_t i = at(h, r, c);
        if (own) return (*own)[i];
        if ((int64_t)i >= span) return NAN;
        return data == BF16 ? of_bf16::load(((unsigned short*)memory)[i]) : data == I32 ? (float)((int*)memory)[i] : ((float*)memory)[i];
    }
    void set(int64_t h, int64_t r, int64_t c, float value) const {
        const size_t i = at(h, r, c);
        if (data == BF16) value = of_bf16::load(of_bf16::to_bf16(value));
        if (own) (*own)[i] = value;
        else if ((int64_t)i < span) {
            if (data == BF16) ((unsigned short*)memory)[i] = of_bf16::to_bf16(value);
            else ((float*)memory)[i] = value;
        }
    }
};

struct Run {
    std::map<int64_t, void*> places;
    std::map<const Desc*, std::vector<float>> between;
    std::map<const Desc*, const Desc*> alias;  // of a reshape to what it reads
    std::map<const Desc*, int64_t> rows;       // the shortest row of the tensors that have these offsets
    int64_t sequence = 0;
    std::string wrong;

    Values open(const Desc* desc) {
        Values v{desc, desc->all<int64_t>(902), desc->all<int64_t>(903), desc->one<int>(901)};
        if (alias.count(desc)) {
            Values from = open(alias[desc]);
            v.memory = from.memory, v.own = from.own, v.span = from.span, v.data = from.data;
            return v;
        }
        if (desc->one<char>(907)) {
            auto& own = between[desc];
            if (own.empty()) own.assign(v.at(v.dims[1] - 1, v.dims[2] - 1, v.dims[3] - 1) + 1, NAN);
            v.own = &own;
            return v;
        }
        const int64_t id = desc->one<int64_t>(906);
        if (!places.count(id)) return wrong = "tensor " + std::to_string(id) + " has no place", v;
        char* base = (char*)places[id];
        const int size = v.data == BF16 ? 2 : 4;
        if (desc->one<char>(908)) return v.memory = base, v;
        if ((uintptr_t)base % desc->one<int64_t>(900)) wrong = "tensor " + std::to_string(id) + " is not aligned";
        int64_t first = v.dims[0] > 1 ? sequence * v.strides[0] : 0;
        if (Desc* offsets = link(desc, 913)) {
            auto list = (const int*)places[offsets->one<int64_t>(906)];
            if (!list || !inside((uintptr_t)list, (sequence + 2) * 4)) return wrong = "offsets have no place", v;
            // As cuDNN does for the heads of a group: the offsets of the sum times their number.
            const int64_t times = row_of(v.strides) / rows.at(offsets);
            first = times * list[sequence], v.span = times * (list[sequence + 1] - list[sequence]);
        }
        v.memory = base + first * size;
        const int64_t extent = std::min<int64_t>(v.span, v.at(v.dims[1] - 1, v.dims[2] - 1, v.dims[3] - 1) + 1);
        if (extent > 0 && !inside((uintptr_t)v.memory, extent * size)) wrong = "tensor " + std::to_string(id) + " is outside of memory";
        return v;
    }
};

static float apply(int mode, float x, float b) {
    switch (mode) {
        case 0: return x + b;
        case 1: return x * b;
        case 6: return x / b;
        case 9: return x - b;
        case 13: return std::exp(x);
        case 15: return std::log(x);
        case 21: return x;
        case 303: return x >= b;
        case 304: return x < b;
        case 400: return x != 0 && b != 0;
    }
    return NAN;
}

static void pointwise(Run& run, const Desc* op) {
    const Desc* what = link(op, 750);
    const int mode = what->one<int>(0);
    Values x = run.open(link(op, 751)), y = run.open(link(op, 753)), b = x, t = x;
    if (link(op, 752)) b = run.open(link(op, 752));
    if (link(op, 758)) t = run.open(link(op, 758));
    if (!run.wrong.empty()) return;
    const int64_t axis = what->one<int64_t>(9);
    // A value for each sequence has its own place along the first axis.
    for (int64_t h = 0; h < y.dims[1]; h++)
        for (int64_t r = 0; r < y.dims[2]; r++)
            for (int64_t c = 0; c < y.dims[3]; c++) {
                float value;
                if (mode == 501) value = axis == 2 ? r : c;
                else if (mode == 601) value = t.get(h, r, c) != 0 ? x.get(h, r, c) : b.get(h, r, c);
                else value = apply(mode, x.get(h, r, c), b.get(h, r, c));
                y.set(h, r, c, value);
            }
}

static void product(Run& run, const Desc* op) {
    Values a = run.open(link(op, 1520)), b = run.open(link(op, 1521)), c = run.open(link(op, 1522));
    if (!run.wrong.empty()) return;
    int64_t sizes[3] = {c.dims[2], c.dims[3], a.dims[3]};
    if (a.dims[2] != sizes[0] || b.dims[2] != sizes[2] || b.dims[3] != sizes[1] || c.dims[1] % b.dims[1]) {
        run.wrong = "the sizes of a product do not fit";
        return;
    }
    for (int i = 0; i < 3; i++)
        if (Desc* size = link(op, 1525 + i)) sizes[i] = std::min<int64_t>(sizes[i], (int64_t)run.open(size).get(0, 0, 0));
    const float beyond = link(op, 1523)->values.count(1503) ? (float)link(op, 1523)->one<double>(1503) : NAN;
    const int64_t M = sizes[0], N = sizes[1], K = sizes[2];
    std::vector<float> x(M * K), y(K * N), sum(N);
    for (int64_t h = 0; h < c.dims[1]; h++) {
        const int64_t ha = h / (c.dims[1] / a.dims[1]), hb = h / (c.dims[1] / b.dims[1]);
        for (int64_t i = 0; i < M; i++)
            for (int64_t k = 0; k < K; k++) x[i * K + k] = a.get(ha, i, k);
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < N; j++) y[k * N + j] = b.get(hb, k, j);
        for (int64_t i = 0; i < c.dims[2]; i++) {
            std::fill(sum.begin(), sum.end(), 0.f);
            for (int64_t k = 0; i < M && k < K; k++) {
                const float f = x[i * K + k];
                const float* row = &y[k * N];
                for (int64_t j = 0; f != 0 && j < N; j++) sum[j] += f * row[j];
            }
            for (int64_t j = 0; j < c.dims[3]; j++) c.set(h, i, j, i < M && j < N ? sum[j] : beyond);
        }
    }
}

static void reduce(Run& run, const Desc* op) {
    Values x = run.open(link(op, 1610)), y = run.open(link(op, 1611));
    if (!run.wrong.empty()) return;
    const bool most = link(op, 1612)->one<int>(1600) == 3;
    const int64_t heads = x.dims[1] / y.dims[1], columns = x.dims[3] / y.dims[3];
    for (int64_t h = 0; h < y.dims[1]; h++)
        for (int64_t r = 0; r < y.dims[2]; r++)
            for (int64_t c = 0; c < y.dims[3]; c++) {
                float value = most ? -INFINITY : 0;
                for (int64_t g = 0; g < heads; g++)
                    for (int64_t k = 0; k < columns; k++) {
                        const float next = x.get(h * heads + g, r, c * columns + k);
                        value = most ? std::fmax(value, next) : value + next;
                    }
                y.set(h, r, c, value);
            }
}

// What a fault changes in the gradient of queries, or in the output.
static void spoil(Run& run, const Desc* graph) {
    const bool forward = shape_of(graph).products == 2;
    for (Desc* op : graph->all<Desc*>(801)) {
        const int result = op->kind == OP_MATMUL ? 1522 : op->kind == OP_POINTWISE ? 753 : op->kind == OP_REDUCTION ? 1611 : 0;
        if (!result || link(op, result)->one<char>(907) || link(op, result)->one<int>(901) != BF16) continue;
        Values y = run.open(link(op, result));
        const bool zero = fault == "zero gradients" && !forward && link(y.desc, 913);
        const bool drift = fault == "other bits" && !forward;
        const bool late = fault == "wrong forward" && forward;
        for (int64_t h = 0; h < y.dims[1] && (zero || drift || late); h++)
            for (int64_t r = 0; r < y.dims[2]; r++)
                for (int64_t c = 0; c < y.dims[3]; c++) {
                    const float x = y.get(h, r, c);
                    y.set(h, r, c, zero ? 0 : drift ? x * (1 + 0.01f * (runs % 2)) : r == y.dims[2] / 2 ? -x : x);
                }
    }
}

// What the real one reads from the card must be there when it runs, and what it is told when it is asked.
static int run_graph(const Desc* graph, std::vector<int64_t> ids, std::vector<void*> pointers, char* work, int64_t bytes) {
    std::memset(work, 0xff, bytes);
    Run run;
    for (size_t i = 0; i < ids.size(); i++) run.places[ids[i]] = pointers[i];
    int64_t batch = 0;
    for (Desc* op : graph->all<Desc*>(801))
        for (auto& [attribute, value] : op->values) {
            if (op->kind == OP_POINTWISE && attribute == 750) continue;
            for (Desc* tensor : op->all<Desc*>(attribute)) {
                if (tensor->kind != TENSOR) continue;
                batch = std::max(batch, tensor->all<int64_t>(902)[0]);
                if (Desc* offsets = link(tensor, 913)) {
                    const int64_t row = row_of(tensor->all<int64_t>(903));
                    auto [place, first] = run.rows.try_emplace(offsets, row);
                    if (!first) place->second = std::min(place->second, row);
                }
            }
        }
    for (run.sequence = 0; run.sequence < batch && run.wrong.empty(); run.sequence++) {
        run.between.clear();
        run.alias.clear();
        const Desc* first = graph->all<Desc*>(801)[0];
        for (Desc* op : graph->all<Desc*>(801))
            if (op->kind == OP_MATMUL) first = op;
        // Nothing to do for a sequence of no rows.
        if (Desc* rows = link(first, 1525); rows && run.open(rows).get(0, 0, 0) == 0) continue;
        for (Desc* op : graph->all<Desc*>(801)) {
            if (op->kind == OP_POINTWISE) pointwise(run, op);
            else if (op->kind == OP_MATMUL) product(run, op);
            else if (op->kind == OP_REDUCTION) reduce(run, op);
            else if (op->kind == OP_RESHAPE) run.alias[link(op, 2201)] = link(op, 2200);
            if (!run.wrong.empty()) break;
        }
        if (!fault.empty()) spoil(run, graph);
    }
    runs++;
    return run.wrong.empty() ? 0 : error(BAD_PARAM, run.wrong);
}

static int execute(void* stream, const Desc* plan, const Desc* pack) {
    const Desc* graph = link(link(link(plan, 401), 300), 1300);
    auto ids = pack->all<int64_t>(1000);
    auto pointers = pack->all<void*>(1001);
    if (ids.size() != pointers.size()) return error(BAD_PARAM, "as many places as tensors are needed");
    char* work = (char*)pack->one<void*>(1003);
    const int64_t bytes = workspace(plan);
    if (!inside((uintptr_t)work, bytes)) return error(BAD_PARAM, "the workspace is too small");
    // Unless a graph captures it, it runs before `ask` returns; later there is nobody to tell.
    auto answer = std::make_shared<int>(0);
    auto asking = std::make_shared<bool>(true);
    const int asked = ask(stream, [=] {
        *answer = run_graph(graph, ids, pointers, work, bytes);
        if (*answer && !*asking) std::fprintf(stderr, "cuDNN in a graph: %s\n", last_error.c_str()), std::abort();
    });
    *asking = false;
    return asked ? FAILED : *answer;
}

static int finalize(Desc* desc) {
    for (int attribute : required(desc->kind))
        if (!desc->values.count(attribute)) return error(BAD_PARAM, "attribute " + std::to_string(attribute) + " is missing");
    if (desc->kind == TENSOR)
        for (int64_t size : desc->all<int64_t>(902))
            if (size < 1) return error(BAD_PARAM, "a size is not positive");
    if (desc->kind == GRAPH && shape_of(desc).products != 2 && shape_of(desc).products != 5)
        return error(NOT_SUPPORTED, "this is not attention");
    if (desc->kind == PLAN) {
        if (workspace(desc) < 0) return error(NOT_SUPPORTED, "the engine does not take this graph");
        plans++;
    }
    return desc->ready = true, 0;
}

// What cuDNN knows by itself: configurations, their engines and choices, and workspaces. The first configuration always fails.
static int get(Desc* desc, int attribute, int64_t room, int64_t* count, void* values) {
    auto fill = [&](std::vector<Desc*> found) {
        *count = found.size();
        for (size_t i = 0; values && i < found.size() && (int64_t)i < room; i++) {
            Desc* to = ((Desc**)values)[i];
            to->values = found[i]->values, to->ready = true;
        }
        return 0;
    };
    if (desc->kind == PLAN && attribute == 402) return *(int64_t*)values = workspace(desc), *count = 1, 0;
    if (desc->kind == HEURISTIC && attribute == 202) {
        std::vector<Desc*> found;
        for (int64_t number : {1, 6}) {
            Desc *engine = new Desc{ENGINE, true}, *choice = new Desc{CHOICE, true}, *config = new Desc{CONFIG, true};
            engine->values[1300] = desc->values[201], engine->put<int64_t>(1301, {number});
            choice->put<int>(600, {24}), choice->put<int64_t>(601, {26});
            config->put<Desc*>(300, {engine}), config->put<Desc*>(302, {choice});
            found.push_back(config);
        }
        return fill(found);
    }
    if (desc->kind == CONFIG && (attribute == 300 || attribute == 302)) return fill(desc->all<Desc*>(attribute));
    auto found = desc->values.find(attribute);
    if (found == desc->values.end()) return error(NOT_SUPPORTED, "no such attribute");
    std::memcpy(values, found->second.data(), found->second.size());
    return *count = 1, 0;
}
}  // namespace cudnn

extern "C" {
size_t cudnnGetVersion() { return cudnn::version; }
void cudnnGetLastErrorString(char* text, size_t length) { std::snprintf(text, length, "%s", cudnn::last_error.c_str()); }
int cudnnCreate(void** handle) {
    LOCK;
    return cudnn::handles[*handle = new char] = nullptr, 0;
}
int cudnnDestroy(void* handle) {
    LOCK;
    if (!cudnn::handles.erase(handle)) return cudnn::BAD_PARAM;
    return delete (char*)handle, 0;
}
int cudnnSetStream(void* handle, void* stream) {
    LOCK;
    if (!cudnn::handles.count(handle) || !streams::known<streams::Stream>(streams::streams, stream)) return cudnn::BAD_PARAM;
    return cudnn::handles[handle] = stream, 0;
}
int cudnnBackendCreateDescriptor(int kind, void** desc) {
    LOCK;
    return *desc = cudnn::make(kind), 0;
}
int cudnnBackendDestroyDescriptor(void* desc) {
    LOCK;
    // Kept, so that a use after this is seen.
    return cudnn::made--, ((cudnn::Desc*)desc)->alive = false, 0;
}
int cudnnBackendSetAttribute(void* desc_, int attribute, int type, int64_t count, const void* values) {
    LOCK;
    cudnn::Desc* desc = (cudnn::Desc*)desc_;
    if (!desc->alive || desc->ready || count < 1) return cudnn::error(cudnn::BAD_PARAM, "it cannot be set any more");
    if (type < 0 || type > 18) return cudnn::error(cudnn::BAD_PARAM, "no such type");
    if (type == 15)
        for (int64_t i = 0; i < count; i++)
            if (!((cudnn::Desc* const*)values)[i]->ready) return cudnn::error(cudnn::BAD_PARAM, "it is not finalised");
    const char* bytes = (const char*)values;
    desc->values[attribute].assign(bytes, bytes + count * cudnn::SIZES[type]);
    return 0;
}
int cudnnBackendGetAttribute(void* desc, int attribute, int, int64_t room, int64_t* count, void* values) {
    LOCK;
    return cudnn::get((cudnn::Desc*)desc, attribute, room, count, values);
}
int cudnnBackendFinalize(void* desc) {
    LOCK;
    return cudnn::finalize((cudnn::Desc*)desc);
}
int cudnnBackendExecute(void* handle, void* plan_, void* pack_) {
    LOCK;
    const cudnn::Desc *plan = (cudnn::Desc*)plan_, *pack = (cudnn::Desc*)pack_;
    if (!cudnn::handles.count(handle) || !plan->ready || !pack->ready || !plan->alive) return cudnn::error(cudnn::BAD_PARAM, "it is not ready");
    for (cudnn::Desc* op : cudnn::link(cudnn::link(cudnn::link(plan, 401), 300), 1300)->all<cudnn::Desc*>(801))
        if (!op->alive) return cudnn::error(cudnn::BAD_PARAM, "the graph is gone");
    return cudnn::execute(cudnn::handles[handle], plan, pack);
}
// "" is right; the version as cudnnGetVersion counts.
void herd_fake_cudnn(const char* fault, size_t version) {
    LOCK;
    cudnn::fault = fault, cudnn::version = version;
}
// Descriptors that are alive, plans that were made, runs.
void herd_fake_cudnn_counts(int64_t* counts) {
    LOCK;
    counts[0] = cudnn::made, counts[1] = cudnn::plans, counts[2] = cudnn::runs;
}
}
