// Runs the kernels' own sources on the processor and compares them with plain f64 loops: a block's threads are threads,
// __syncthreads is a barrier, blocks run one after another. With ThreadSanitizer a missing barrier is a data race.
//
//     g++ -std=c++20 -O1 -fsanitize=thread -pthread -I.. -I../../../../tests/fake_card on_cpu.cpp -o on_cpu && ./on_cpu
//
// It proves index arithmetic, formulas and barriers. Only a card proves launches, memory on the card, the compiler's
// code for it, and speed.

#define REAL_THREADS
#define ACT_BF16
#include "warps.h"
#include <algorithm>
#include <cmath>
#include <random>
#include "kernels.h"

static void launch(size_t columns, size_t rows, const std::function<void()>& kernel, unsigned count = THREADS,
                   size_t shared = 0) {
    threads::grid({(unsigned)columns, (unsigned)rows}, count, shared, kernel);
}
static void launch(size_t blocks, const std::function<void()>& kernel) { launch(blocks, 1, kernel); }
static size_t blocks(size_t items) { return (items + THREADS - 1) / THREADS; }

static std::mt19937 random_bits(7);
static std::vector<float> uniform(size_t n) {
    std::uniform_real_distribution<float> draw(-2.f, 2.f);
    std::vector<float> out(n);
    for (auto& x : out) x = draw(random_bits);
    return out;
}
static std::vector<bf16> halves(size_t n) {
    std::vector<bf16> out;
    for (float x : uniform(n)) out.push_back(to_bf16(x));
    return out;
}
// Outputs begin as NaN: what is not written is seen.
template <typename T> static std::vector<T> poisoned(size_t n) { return std::vector<T>(n, T(NAN)); }
template <> std::vector<bf16> poisoned<bf16>(size_t n) { return std::vector<bf16>(n, 0x7fff); }

static int failures = 0;
static double value(bf16 x) { return load(x); }
static double value(float x) { return x; }
static double value(double x) { return x; }
template <typename T>
static void same(const char* name, const std::vector<T>& got, const std::vector<double>& want, double tolerance) {
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < want.size(); i++) {
        double error = std::fabs(value(got[i]) - want[i]) / (1.0 + std::fabs(want[i]));
        if (!(error <= worst)) worst = error, at = i;
    }
    bool good = got.size() == want.size() && worst <= tolerance;
    failures += !good;
    std::printf("%-24s %s  largest error %.1e at %zu (%g, should be %g)\n", name, good ? "ok  " : "FAIL", worst, at,
                value(got[at]), want[at]);
}
static const double BF16 = 1.0 / 250, F32 = 1e-5;

static void check_rms_norm() {
    const int n = 3, d = 300;  // more than a block's threads, and no multiple of them
    auto x = halves(n * d), residual = halves(n * d), dy = halves(n * d), dx = halves(n * d);
    auto w = uniform(d), dw = uniform(d);
    auto sum = poisoned<bf16>(n * d), y = poisoned<bf16>(n * d);
    auto rstd = poisoned<float>(n);
    launch(n, [&] { rms_norm(x.data(), residual.data(), sum.data(), w.data(), y.data(), rstd.data(), d, 1e-5f); });
    std::vector<double> sum_(n * d), y_(n * d), dx_(n * d), dw_(dw.begin(), dw.end()), r_(n);
    for (int i = 0; i < n; i++) {
        double squares = 0, dot = 0;
        for (int j = 0; j < d; j++) {
            sum_[i * d + j] = value(x[i * d + j]) + value(residual[i * d + j]);
            squares += std::pow(value(to_bf16(sum_[i * d + j])), 2);
        }
        double r = r_[i] = 1 / std::sqrt(squares / d + 1e-5);
        auto s = [&](int j) { return value(to_bf16(sum_[i * d + j])); };
        for (int j = 0; j < d; j++) {
            y_[i * d + j] = s(j) * r * w[j];
            dot += w[j] * value(dy[i * d + j]) * s(j) * r;
            dw_[j] += value(dy[i * d + j]) * s(j) * r;
        }
        for (int j = 0; j < d; j++)
            dx_[i * d + j] = value(dx[i * d + j]) + r * (w[j] * value(dy[i * d + j]) - s(j) * r * dot / d);
    }
    same("rms_norm sum", sum, sum_, BF16);
    same("rms_norm y", y, y_, BF16);
    same("rms_norm rstd", rstd, r_, F32);
    auto alone = poisoned<bf16>(n * d);
    launch(n, [&] { rms_norm(sum.data(), nullptr, nullptr, w.data(), alone.data(), rstd.data(), d, 1e-5f); });
    same("rms_norm no residual", alone, y_, BF16);
    launch(n, [&] { rms_norm_dx(sum.data(), w.data(), rstd.data(), dy.data(), dx.data(), d, 1); });
    same("rms_norm dx", dx, dx_, BF16);
    auto shares = poisoned<float>(2 * d);
    launch(blocks(d), 2, [&] { rms_norm_dw(sum.data(), rstd.data(), dy.data(), shares.data(), n, d, 2); });
    launch(blocks(d), [&] { add_shares(shares.data(), dw.data(), 2, d); });
    same("rms_norm dw", dw, dw_, F32);
}

static void check_swiglu() {
    const size_t n = 3, f = 101;
    auto x = halves(n * 2 * f), dy = halves(n * f), y = poisoned<bf16>(n * f);
    std::vector<double> y_(n * f), dx_(n * 2 * f);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < f; j++) {
            double g = value(x[i * 2 * f + j]), u = value(x[i * 2 * f + f + j]), d = value(dy[i * f + j]);
            double s = 1 / (1 + std::exp(-g));
            y_[i * f + j] = g * s * u;
            dx_[i * 2 * f + j] = d * u * (s + g * s * (1 - s));
            dx_[i * 2 * f + f + j] = d * g * s;
        }
    launch(blocks(n * f), [&] { swiglu(x.data(), y.data(), n * f, f); });
    same("swiglu", y, y_, BF16);
    launch(blocks(n * f), [&] { swiglu_backward(x.data(), dy.data(), n * f, f); });
    same("swiglu backward", x, dx_, BF16);
}

static void check_rope() {
    const size_t n = 4, heads = 3, rotated = 2, half = 16;
    auto x = halves(n * heads * 2 * half), y = poisoned<bf16>(x.size());
    auto cos = uniform(7 * half), sin = uniform(7 * half);
    std::vector<unsigned> positions = {6, 0, 2, 0};
    for (double direction : {1.0, -1.0}) {
        std::vector<double> want;
        for (bf16 v : x) want.push_back(value(v));
        for (size_t i = 0; i < n; i++)
            for (size_t h = 0; h < rotated; h++)
                for (size_t j = 0; j < half; j++) {
                    size_t at = (i * heads + h) * 2 * half + j;
                    double c = cos[positions[i] * half + j], s = direction * sin[positions[i] * half + j];
                    want[at] = value(x[at]) * c - value(x[at + half]) * s;
                    want[at + half] = value(x[at + half]) * c + value(x[at]) * s;
                }
        launch(blocks(x.size() / 2), [&] {
            rope(x.data(), y.data(), cos.data(), sin.data(), positions.data(), x.size() / 2, heads, rotated, half, direction);
        });
        same(direction > 0 ? "rope" : "rope backward", y, want, BF16);
    }
}

static void check_cross_entropy() {
    const int n = 3, v = 1000;
    auto z = uniform(n * v);
    std::vector<unsigned> targets = {0, 999, 500};
    std::vector<float> weights = {1.f, 0.25f, 0.f};
    auto dz = poisoned<bf16>(n * v);
    auto nll = poisoned<float>(n);
    std::vector<double> dz_(n * v), nll_(n);
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < v; j++) sum += std::exp((double)z[i * v + j]);
        for (int j = 0; j < v; j++)
            dz_[i * v + j] = weights[i] * (std::exp((double)z[i * v + j]) / sum - (j == (int)targets[i]));
        nll_[i] = -weights[i] * (z[i * v + targets[i]] - std::log(sum));
    }
    launch(n, [&] { loss_gradient(z.data(), targets.data(), weights.data(), dz.data(), nll.data(), v); });
    // Most of these are near 1e-3, so the tolerance for values near 1 would see nothing.
    for (auto& x : dz_) x *= 1000;
    std::vector<double> scaled;
    for (bf16 x : dz) scaled.push_back(1000 * value(x));
    same("cross_entropy dz", scaled, dz_, BF16);
    same("cross_entropy nll", nll, nll_, F32);
}

static void check_adamw() {
    const size_t n = 700;
    auto w = uniform(n), g = uniform(n), m = uniform(n), v = uniform(n);
    for (auto& x : v) x = std::fabs(x);
    double squares = 0;
    for (float x : g) squares += (double)x * x;
    const double keep = 0.99, b1 = 0.9, b2 = 0.95, lr = 0.01, eps = 1e-8;
    auto shares = poisoned<double>(2);
    auto report = poisoned<double>(2);
    float* losses = (float*)&report[1];
    losses[0] = 2.f, losses[1] = -1.f;
    Counts counts = {2, 0};
    const Step of_host = {lr, keep};
    Rule rule;
    auto step = [&] {
        launch(2, [&] { sum_of_squares(g.data(), shares.data(), n); });
        launch(1, [&] { adamw_rule(shares.data(), 2, report.data(), 2, 1, 1.0, &of_host, b1, b2, &counts, &rule); });
    };
    step();
    same("gradient norm", std::vector<double>{report[0]}, {std::sqrt(squares)}, F32);
    const double rate = lr / (1 - std::pow(b1, 3)), root = 1 / std::sqrt(1 - std::pow(b2, 3));
    same("adamw rule", std::vector<float>{rule.clip, rule.rate, rule.root}, {1 / std::sqrt(squares), rate, root}, F32);
    std::vector<double> w_(n), m_(n), v_(n);
    for (size_t i = 0; i < n; i++) {
        double grad = g[i] * rule.clip;
        m_[i] = b1 * m[i] + (1 - b1) * grad;
        v_[i] = b2 * v[i] + (1 - b2) * grad * grad;
        w_[i] = w[i] * keep - rate * m_[i] / (std::sqrt(v_[i]) * root + eps);
    }
    auto copy = poisoned<bf16>(n);
    auto apply = [&] {
        launch(blocks(n), [&] {
            adamw(w.data(), g.data(), m.data(), v.data(), copy.data(), &rule, n, 1, b1, b2, eps);
        });
    };
    apply();
    same("adamw w", w, w_, F32);
    same("adamw m", m, m_, F32);
    same("adamw v", v, v_, F32);
    same("adamw bf16 copy", copy, w_, BF16);
    same("adamw clears g", g, std::vector<double>(n, 0.0), 0.0);
    // A loss, then a gradient that is not finite; then one more than may be left out, and all is left out.
    std::vector<float> norms, w_before = w;
    for (int broken = 0; broken < 3; broken++) {
        g = uniform(n);
        losses[0] = broken == 0 ? 1.f / 0.f : 1.f;
        if (broken == 1) g[5] = -1.f / 0.f;
        step();
        apply();
        norms.push_back(std::isfinite(report[0]));
    }
    same("adamw leaves out", w, std::vector<double>(w_before.begin(), w_before.end()), 0.0);
    same("and clears g", g, std::vector<double>(n, 0.0), 0.0);
    same("and counts", std::vector<float>{(float)counts.applied, (float)counts.left_out}, {3, 3}, 0.0);
    same("and is told", norms, {1, 0, 0}, 0.0);
}

static void check_embedding() {
    const size_t n = 5, d = 70, vocabulary = 6;
    auto table = halves(vocabulary * d), dy = halves(n * d), y = poisoned<bf16>(n * d);
    auto dw = uniform(vocabulary * d);
    std::vector<unsigned> ids = {3, 5, 3, 0, 3}, rows = {3, 0, 2, 4, 1};
    // As many groups as rows.
    std::vector<unsigned> distinct = {0, 3, 5, 0, 0}, starts = {0, 1, 4, 5, 5, 5};
    std::vector<double> y_(n * d), dw_(dw.begin(), dw.end());
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++) {
            y_[i * d + j] = value(table[ids[i] * d + j]);
            dw_[ids[i] * d + j] += value(dy[i * d + j]);
        }
    launch(blocks(n * d), [&] { embedding(table.data(), ids.data(), y.data(), n * d, d); });
    same("embedding", y, y_, 0.0);
    launch(blocks(3 * d), [&] {
        embedding_backward(dy.data(), distinct.data(), starts.data(), rows.data(), dw.data(), n * d, d);
    });
    same("embedding backward", dw, dw_, F32);
}

// Documents, one of which sees a prefix; more rows than a tile, and no multiple of one. `mma` is on tensor cores.
template <typename Forward, typename Backward>
static void check_attention(bool mma, Forward forward, Backward dq, Backward dkv) {
    const int n = 70, heads = 2, kv_heads = 1, hd = mma ? 64 : 10, width = (heads + 2 * kv_heads) * hd;
    const float scale = 1 / std::sqrt((float)hd);
    auto qkv = halves(n * width), dout = halves(n * heads * hd);
    std::vector<Sight> sights(n);
    for (int i = 0; i < n; i++) sights[i] = i < 20 ? Sight{0, 0, 0} : i < 23 ? Sight{20, 0, 0} : Sight{23, 3, 9};
    auto at = [&](int row, int column, int c) { return value(qkv[row * width + column * hd + c]); };
    std::vector<double> out_(n * heads * hd), lse_(heads * n), d_(n * width), delta_(heads * n);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < n; i++) {
            const int k = heads + h / 2, v = heads + kv_heads + h / 2;
            std::vector<double> s(n, -INFINITY), dp(n);
            double sum = 0, d = 0;
            for (int j = 0; j < n; j++)
                if (sees(sights[i], i, j)) {
                    s[j] = 0;
                    for (int c = 0; c < hd; c++) s[j] += at(i, h, c) * at(j, k, c) * scale;
                    sum += std::exp(s[j]);
                }
            lse_[h * n + i] = std::log(sum);
            for (int j = 0; j < n; j++)
                for (int c = 0; c < hd; c++) {
                    const double p = std::exp(s[j]) / sum, o = value(dout[(i * heads + h) * hd + c]);
                    out_[(i * heads + h) * hd + c] += p * at(j, v, c);
                    dp[j] += o * at(j, v, c);
                    d_[j * width + v * hd + c] += p * o;
                }
            for (int j = 0; j < n; j++) d += std::exp(s[j]) / sum * dp[j];
            delta_[h * n + i] = d;
            for (int j = 0; j < n; j++)
                for (int c = 0; c < hd; c++) {
                    const double ds = std::exp(s[j]) / sum * (dp[j] - d) * scale;
                    d_[i * width + h * hd + c] += ds * at(j, k, c);
                    d_[j * width + k * hd + c] += ds * at(i, h, c);
                }
        }
    // Every tile of keys up to the queries' own, and of queries from the keys' own; all pairs are checked.
    const unsigned tile = mma ? 64 : 32, tiles = (n + tile - 1) / tile, count = mma ? 128 : 256;
    std::vector<unsigned> key_starts = {0}, keys, query_starts = {0}, queries;
    for (unsigned a = 0; a < tiles; a++) {
        for (unsigned b = 0; b <= a; b++) keys.push_back(2 * b + 1);
        for (unsigned b = a; b < tiles; b++) queries.push_back(2 * b + 1);
        key_starts.push_back(keys.size()), query_starts.push_back(queries.size());
    }
    auto out = poisoned<bf16>(n * heads * hd), d_qkv = poisoned<bf16>(n * width);
    auto lse = poisoned<float>(heads * n), delta = poisoned<float>(heads * n);
    const std::string name = mma ? "attention mma" : "attention";
    auto row = [&](const char* what) { return name + " " + what; };
    const size_t shared = 48 << 10;
    launch(heads, tiles, [&] {
        forward(qkv.data(), out.data(), lse.data(), key_starts.data(), keys.data(), sights.data(), n, heads, kv_heads, hd,
                scale);
    }, count, shared);
    same(row("out").c_str(), out, out_, BF16);
    same(row("lse").c_str(), lse, lse_, F32);
    // As the backward pass is given it: the output in bf16.
    launch(blocks(32 * n * heads), 1, [&] { attention_delta(out.data(), dout.data(), delta.data(), n, heads, hd); });
    same(row("delta").c_str(), delta, delta_, 3e-2);
    launch(heads, tiles, [&] {
        dq(qkv.data(), dout.data(), lse.data(), delta.data(), d_qkv.data(), key_starts.data(), keys.data(), sights.data(), n,
           heads, kv_heads, hd, scale);
    }, count, shared);
    launch(kv_heads, tiles, [&] {
        dkv(qkv.data(), dout.data(), lse.data(), delta.data(), d_qkv.data(), query_starts.data(), queries.data(),
            sights.data(), n, heads, kv_heads, hd, scale);
    }, count, shared);
    same(row("backward").c_str(), d_qkv, d_, 2e-2);
}

// Products of few rows and what follows them; more columns than one step of the warps, and no multiple of it.
static void check_few_rows() {
    const int n = 3, k = 296, m = 24;
    auto w = halves(m * k), x = halves(n * k);
    auto bias = uniform(m), y = uniform(n * m), out = poisoned<float>(n * m);
    std::vector<double> product(n * m), sum(n * m), gated_(n * m / 2);
    for (int b = 0; b < n; b++)
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < k; j++) product[b * m + i] += value(x[b * k + j]) * value(w[i * k + j]);
            sum[b * m + i] = product[b * m + i] + bias[i] + y[b * m + i];
        }
    for (int b = 0; b < n; b++)
        for (int i = 0; i < m / 2; i++) {
            const double gate = product[b * m + i];
            gated_[b * m / 2 + i] = gate / (1 + std::exp(-gate)) * product[b * m + m / 2 + i];
        }
    launch(2, 1, [&] { few_store(w.data(), x.data(), nullptr, nullptr, nullptr, 0, out.data(), n, k, m); });
    same("few rows", out, product, F32);
    launch(2, 1, [&] { few_add(w.data(), x.data(), bias.data(), y.data(), nullptr, n, k, m); });
    same("few rows, added", y, sum, F32);
    // 16 rows of gates are whole blocks.
    std::vector<bf16> gates(w.begin(), w.begin() + 8 * k);
    gates.insert(gates.end(), w.begin() + m / 2 * k, w.begin() + (m / 2 + 8) * k);
    auto gated = poisoned<bf16>(n * 8);
    launch(1, 1, [&] { few_gated(gates.data(), x.data(), nullptr, nullptr, nullptr, 0, gated.data(), n, k, 8); });
    std::vector<double> first;
    for (int b = 0; b < n; b++) first.insert(first.end(), &gated_[b * m / 2], &gated_[b * m / 2 + 8]);
    same("few rows, gated", gated, first, BF16);
}

// A row of the table, normalised on the way to a product, which is added to it; and its squares.
static void check_stream() {
    const int n = 2, d = 272;
    auto table = halves(5 * d), w = halves(d * d);
    auto norm = uniform(d);
    std::vector<unsigned> ids = {3, 1};
    auto x = poisoned<float>(n * d), squares = poisoned<float>(d / 16 * FEW), out = poisoned<float>(n * d);
    launch(2, n, [&] { embed_rows(table.data(), ids.data(), x.data(), squares.data(), d); });
    std::vector<double> x_, squares_(d / 16 * n), out_(n * d), y_(n * d);
    for (unsigned id : ids)
        for (int j = 0; j < d; j++) x_.push_back(value(table[id * d + j]));
    same("stream", x, x_, 0.0);
    auto compare = [&](const char* name, const std::vector<double>& of, double tolerance) {
        std::vector<float> found(d / 16 * n);
        std::fill(squares_.begin(), squares_.end(), 0.0);
        for (int b = 0; b < n; b++)
            for (int j = 0; j < d; j++) squares_[b * d / 16 + j / 16] += of[b * d + j] * of[b * d + j];
        for (int i = 0; i < n * d / 16; i++) found[i] = squares[i % (d / 16) * FEW + i / (d / 16)];
        same(name, found, squares_, tolerance);
    };
    compare("stream: squares", x_, F32);
    launch(d / 16, 1, [&] {
        few_store(w.data(), nullptr, x.data(), norm.data(), squares.data(), 1e-5f, out.data(), n, d, d);
    }, THREADS, 2 * n * d);
    std::vector<bf16> rounded;
    for (int i = 0; i < n * d; i++) rounded.push_back(to_bf16((float)x_[i] * norm[i % d]));
    auto normed_ = out_;
    for (int b = 0; b < n; b++) {
        double sum = 0;
        for (int j = 0; j < d; j++) sum += x_[b * d + j] * x_[b * d + j];
        for (int i = 0; i < d; i++) {
            for (int j = 0; j < d; j++) out_[b * d + i] += value(rounded[b * d + j]) * value(w[i * d + j]);
            normed_[b * d + i] = out_[b * d + i] / std::sqrt(sum / d + 1e-5);
        }
    }
    same("stream: normalised", out, normed_, F32);
    for (int i = 0; i < n * d; i++) y_[i] = x_[i] + out_[i];
    launch(d / 16, 1, [&] { few_add(w.data(), rounded.data(), nullptr, x.data(), squares.data(), n, d, d); });
    same("stream: added", x, y_, F32);
    compare("stream: squares after", y_, 1e-4);
}

// Rows in e4m3: the stream normalised, gates and ups, weights; few rows with weights in it; and sums of rows. Codes are compared as
// the numbers they stand for, which are off by a sixteenth at most.
static double value(e4m3 x) {
    const int exponent = x.bits >> 3 & 15, mantissa = x.bits & 7;
    const double a = exponent ? std::ldexp(1 + mantissa / 8.0, exponent - 7) : std::ldexp(mantissa / 8.0, -6);
    return x.bits & 0x80 ? -a : a;
}
static void check_e4m3() {
    const int n = 3, d = 1104, f = 2064;
    auto x = uniform(n * d), norm = uniform(d), scales = poisoned<float>(n), rows = uniform(n), columns = uniform(2 * f);
    auto gate_up = halves(n * 2 * f);
    std::vector<unsigned> codes(4096);
    auto compare = [&](const char* name, const std::vector<double>& want, int width) {
        std::vector<float> found;
        for (int i = 0; i < n * width; i++) found.push_back(value(((const e4m3*)codes.data())[i]) * scales[i / width]);
        same(name, found, want, 1 / 16.0);
    };
    launch(n, [&] { norm_rows_e4m3(x.data(), norm.data(), codes.data(), scales.data(), d, 1e-5f); });
    std::vector<double> normed(n * d), gated(n * f), weights;
    for (int i = 0; i < n * d; i++) {
        double sum = 0;
        for (int j = 0; j < d; j++) sum += x[i / d * d + j] * x[i / d * d + j];
        normed[i] = x[i] / std::sqrt(sum / d + 1e-5) * norm[i % d];
    }
    compare("e4m3: normalised", normed, d);
    launch(n, [&] { swiglu_e4m3(gate_up.data(), rows.data(), columns.data(), codes.data(), scales.data(), f); });
    for (int i = 0; i < n * f; i++) {
        const int row = i / f, j = i % f;
        const double gate = value(gate_up[row * 2 * f + j]) * rows[row] * columns[j];
        gated[i] = gate / (1 + std::exp(-gate)) * value(gate_up[row * 2 * f + f + j]) * rows[row] * columns[f + j];
    }
    compare("e4m3: gated", gated, f);
    launch(n, [&] { quantise_rows(gate_up.data(), codes.data(), scales.data(), f, INFINITY); });
    for (int i = 0; i < n * f; i++) weights.push_back(value(gate_up[i]));
    compare("e4m3: weights", weights, f);
    auto y = uniform(n * d);
    std::vector<double> y_;
    for (int i = 0; i < n * d; i++) y_.push_back(y[i] + value(gate_up[i]) * rows[i / d] * columns[i % d]);
    launch(blocks(n * d), [&] { add_rows(gate_up.data(), rows.data(), columns.data(), y.data(), n * d, d); });
    same("e4m3: rows added", y, y_, F32);

    // Few rows: 16 of a matrix, gates and ups 8 each.
    const int k = 592, m = 16;
    auto w = halves(m * k), few = halves(n * k), out = poisoned<bf16>(n * m / 2);
    auto of_w = poisoned<float>(m), sums = uniform(n * m);
    launch(m, [&] { quantise_rows(w.data(), codes.data(), of_w.data(), k, INFINITY); });
    const e4m3* as = (const e4m3*)codes.data();
    std::vector<double> product(n * m), sums_, out_;
    for (int i = 0; i < n * m; i++)
        for (int j = 0; j < k; j++) product[i] += value(few[i / m * k + j]) * value(as[i % m * k + j]) * of_w[i % m];
    for (int i = 0; i < n * m; i++) sums_.push_back(sums[i] + product[i]);
    for (int i = 0; i < n * 8; i++) {
        const double gate = product[i / 8 * m + i % 8];
        out_.push_back(gate / (1 + std::exp(-gate)) * product[i / 8 * m + 8 + i % 8]);
    }
    launch(1, [&] { few_add_e4m3(as, of_w.data(), few.data(), sums.data(), nullptr, n, k, m); });
    same("e4m3: few rows, added", sums, sums_, F32);
    launch(1, 1, [&] {
        few_gated_e4m3(as, of_w.data(), few.data(), nullptr, nullptr, nullptr, 0, out.data(), n, k, 8);
    });
    same("e4m3: few rows, gated", out, out_, BF16);
}

// The largest of two segments of a row, and then of what they give.
static void check_shortlist() {
    const int count = 1500, per = 1000, most = 40;
    auto x = uniform(count);
    for (int i = 0; i < count; i += 7) x[i] = std::round(x[i] * 4);  // many equals
    std::vector<float> first(2 * most, NAN), last(most, NAN), sums(6, NAN), inverse = {2.f};
    std::vector<unsigned> ids(2 * most), last_ids(most);
    launch(2, 1, [&] {
        shortlist(x.data(), nullptr, inverse.data(), first.data(), ids.data(), sums.data(), count, per, most);
    });
    launch(1, 1, [&] {
        shortlist(first.data(), ids.data(), nullptr, last.data(), last_ids.data(), nullptr, 2 * most, 2 * most, most);
    });
    std::vector<float> sorted(x), found(last);
    std::sort(sorted.rbegin(), sorted.rend()), std::sort(found.rbegin(), found.rend());
    same("shortlist", found, std::vector<double>(sorted.begin(), sorted.begin() + most), 0.0);
    for (int i = 0; i < most; i++) failures += x[last_ids[i]] != last[i];
    std::vector<double> sums_;
    for (int s = 0; s < 2; s++) {
        const float* from = &x[s * per];
        const int size = s ? count - per : per;
        double high = *std::max_element(from, from + size), sum = 0;
        for (int i = 0; i < size; i++) sum += std::exp((from[i] - high) * 2);
        sums_.insert(sums_.end(), {high, sum, 0});
    }
    same("shortlist: sums", sums, sums_, F32);
}

// Rows of a sequence in pages that lie in no order: put there, and seen by single rows and by a tile.
static void check_pages() {
    const int n = 70, heads = 6, kv_heads = 2, hd = 64, all = heads + 2 * kv_heads, count = (n + PAGE - 1) / PAGE;
    const size_t stride = 2 * kv_heads * PAGE * hd + 128, layer = 128;
    const float scale = 0.02f;  // so that no key outweighs all others
    auto qkv = uniform(n * all * hd), angles = uniform(n * hd), bias = uniform(all * hd);
    std::vector<bf16> pool((count + 1) * stride, 0x7fff);
    std::vector<unsigned> pages, places(n), positions(n), tables(n, 1);
    for (int i = 0; i <= count; i++) pages.push_back((i * 5 + 1) % (count + 1));
    for (int i = 0; i < n; i++) positions[i] = i, places[i] = pages[1 + i / PAGE] * PAGE + i % PAGE;
    auto q = poisoned<bf16>(n * heads * hd);
    launch(blocks(n * all * hd / 2), [&] {
        put_rows(qkv.data(), bias.data(), angles.data(), places.data(), q.data(), pool.data(), stride, layer, n * all * hd / 2,
                 heads, kv_heads, hd);
    });
    std::vector<double> put(n * all * hd), q_, out_(n * heads * hd);
    for (int i = 0; i < n; i++)
        for (int h = 0; h < all; h++)
            for (int c = 0; c < hd; c++) {
                auto at = [&](int c) { return (double)qkv[(i * all + h) * hd + c] + bias[h * hd + c]; };
                const double cos = angles[i * hd + c % 32], sin = angles[i * hd + 32 + c % 32];
                const double turned = c < 32 ? at(c) * cos - at(c + 32) * sin : at(c) * cos + at(c - 32) * sin;
                put[(i * all + h) * hd + c] = h < heads + kv_heads ? turned : at(c);
            }
    for (int i = 0; i < n; i++) q_.insert(q_.end(), &put[i * all * hd], &put[(i * all + heads) * hd]);
    same("pages: queries", q, q_, BF16);
    auto rounded = [&](int i, int h, int c) { return value(to_bf16((float)put[(i * all + h) * hd + c])); };
    for (int i = 0; i < n; i++)
        for (int h = 0; h < heads; h++) {
            std::vector<double> p(i + 1);
            double sum = 0;
            for (int j = 0; j <= i; j++) {
                double s = 0;
                for (int c = 0; c < hd; c++) s += rounded(i, h, c) * rounded(j, heads + h / 3, c) * scale;
                sum += p[j] = std::exp(s);
            }
            for (int j = 0; j <= i; j++)
                for (int c = 0; c < hd; c++)
                    out_[(i * heads + h) * hd + c] += p[j] / sum * rounded(j, heads + kv_heads + h / 3, c);
        }
    auto out = poisoned<bf16>(n * heads * hd);
    std::vector<unsigned> rows = {66, 3, 69}, tiles = {0, 64, 0, 1, 64, 6, 64, 1};
    launch(heads, 2, [&] {
        paged_mma_64(q.data(), pool.data(), stride, layer, tiles.data(), pages.data(), out.data(), heads, kv_heads, scale);
    }, 128, 48 << 10);
    same("pages: tiles", out, out_, 1e-2);
    for (unsigned row : rows) std::fill_n(&out[row * heads * hd], heads * hd, 0x7fff);
    std::vector<float> partial(3 * kv_heads * 2 * SHARING * (hd + 2), NAN);
    std::vector<unsigned> counters(3 * kv_heads);
    launch(kv_heads, 3 * 2, [&] {
        paged_decode_64(q.data(), pool.data(), stride, layer, rows.data(), positions.data(), tables.data(), pages.data(),
                        partial.data(), counters.data(), out.data(), heads, kv_heads, 2, scale);
    }, 128);
    same("pages: single rows", out, out_, 1e-2);
    for (unsigned row : rows) std::fill_n(&out[row * heads * hd], heads * hd, 0x7fff);
    launch(heads, 3, [&] {
        paged_attention(q.data(), pool.data(), stride, layer, rows.data(), positions.data(), tables.data(), pages.data(),
                        out.data(), heads, kv_heads, hd, scale);
    }, THREADS, 4 * hd);
    same("pages: plain", out, out_, 1e-2);
    failures += counters != std::vector<unsigned>(3 * kv_heads);
}

int main() {
    check_embedding();
    check_rms_norm();
    check_swiglu();
    check_rope();
    check_cross_entropy();
    check_adamw();
    check_few_rows();
    check_stream();
    check_e4m3();
    check_shortlist();
    check_pages();
    check_attention(false, attention, attention_dq, attention_dkv);
    check_attention(true, attention_64, attention_dq_64, attention_dkv_64);
    std::printf(failures ? "%d FAILED\n" : "all kernels agree\n", failures);
    return failures != 0;
}
