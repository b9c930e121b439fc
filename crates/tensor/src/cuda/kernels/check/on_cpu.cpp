// Runs the kernels' own sources on the processor and compares them with plain f64 loops: a block's threads are threads,
// __syncthreads is a barrier, blocks run one after another. With ThreadSanitizer a missing barrier is a data race.
//
//     g++ -std=c++20 -O1 -fsanitize=thread -pthread on_cpu.cpp -o on_cpu && ./on_cpu
//
// It proves index arithmetic, formulas and barriers. Launches are proven by tests/card.rs. Only a card proves memory on the
// card, the compiler's code for it, and speed.

#define REAL_THREADS
#define REAL_BF16
#include "cpu.hpp"
#include "../common.cuh"
#include "../mma.cuh"
#include "../elementwise.cu"
#include "../rms_norm.cu"
#include "../swiglu.cu"
#include "../rope.cu"
#include "../cross_entropy.cu"
#include "../adamw.cu"
#include "../embedding.cu"
#include "../attention.cu"
#include "../attention_mma.cu"
#include <algorithm>
#include <cstdio>
#include <random>

static void launch(size_t blocks, const std::function<void()>& kernel, unsigned y = 1, unsigned threads = THREADS) {
    cpu::launch({(unsigned)blocks, y, 1}, threads, kernel);
}
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
    auto x = halves(n * d), dy = halves(n * d), dx = halves(n * d);
    auto w = uniform(d), dw = uniform(d);
    auto y = poisoned<bf16>(n * d);
    auto rstd = poisoned<float>(n);
    launch(n, [&] { rms_norm(x.data(), w.data(), y.data(), rstd.data(), d, 1e-5f); });
    std::vector<double> y_(n * d), dx_(n * d), dw_(dw.begin(), dw.end()), r_(n);
    for (int i = 0; i < n; i++) {
        double squares = 0, dot = 0;
        for (int j = 0; j < d; j++) squares += std::pow(value(x[i * d + j]), 2);
        double r = r_[i] = 1 / std::sqrt(squares / d + 1e-5);
        auto s = [&](int j) { return value(x[i * d + j]); };
        for (int j = 0; j < d; j++) {
            y_[i * d + j] = s(j) * r * w[j];
            dot += w[j] * value(dy[i * d + j]) * s(j) * r;
            dw_[j] += value(dy[i * d + j]) * s(j) * r;
        }
        for (int j = 0; j < d; j++)
            dx_[i * d + j] = value(dx[i * d + j]) + r * (w[j] * value(dy[i * d + j]) - s(j) * r * dot / d);
    }
    same("rms_norm y", y, y_, BF16);
    same("rms_norm rstd", rstd, r_, F32);
    auto again = poisoned<bf16>(n * d);
    launch(blocks(n * d), [&] { rms_norm_again(x.data(), w.data(), rstd.data(), again.data(), n * d, d); });
    same("rms_norm again", again, y_, BF16);
    launch(n, [&] { rms_norm_dx(x.data(), w.data(), rstd.data(), dy.data(), dx.data(), d, 1); });
    same("rms_norm dx", dx, dx_, BF16);
    auto shares = poisoned<float>(2 * d);
    launch(blocks(d), [&] { rms_norm_dw(x.data(), rstd.data(), dy.data(), shares.data(), n, d, 2); }, 2);
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
    const size_t n = 4, heads = 3, half = 16;
    auto x = halves(n * heads * 2 * half);
    auto cos = uniform(10 * half), sin = uniform(10 * half);
    std::vector<unsigned> positions = {0, 9, 3, 4};
    for (double direction : {1.0, -1.0}) {
        std::vector<double> want(x.size());
        for (size_t i = 0; i < n; i++)
            for (size_t h = 0; h < heads; h++)
                for (size_t j = 0; j < half; j++) {
                    // The last of three heads is not rotated.
                    size_t at = (i * heads + h) * 2 * half + j;
                    double c = h < 2 ? cos[positions[i] * half + j] : 1, s = h < 2 ? direction * sin[positions[i] * half + j] : 0;
                    want[at] = value(x[at]) * c - value(x[at + half]) * s;
                    want[at + half] = value(x[at + half]) * c + value(x[at]) * s;
                }
        auto y = x;
        launch(blocks(x.size() / 2), [&] {
            rope(y.data(), y.data(), cos.data(), sin.data(), positions.data(), x.size() / 2, heads, 2, half, direction);
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
    auto nll = poisoned<float>(n), logprob = poisoned<float>(n);
    std::vector<double> dz_(n * v), nll_(n), logprob_(n);
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < v; j++) sum += std::exp((double)z[i * v + j]);
        for (int j = 0; j < v; j++)
            dz_[i * v + j] = weights[i] * (std::exp((double)z[i * v + j]) / sum - (j == (int)targets[i]));
        logprob_[i] = z[i * v + targets[i]] - std::log(sum);
        nll_[i] = -weights[i] * logprob_[i];
    }
    launch(n, [&] { loss_gradient(z.data(), targets.data(), weights.data(), dz.data(), logprob.data(), nll.data(), v, 1.f); });
    // Most of these are near 1e-3, so the tolerance for values near 1 would see nothing.
    for (auto& x : dz_) x *= 1000;
    std::vector<double> scaled;
    for (bf16 x : dz) scaled.push_back(1000 * value(x));
    same("cross_entropy dz", scaled, dz_, BF16);
    same("cross_entropy nll", nll, nll_, F32);
    same("cross_entropy logprob", logprob, logprob_, F32);
}

static void check_adamw() {
    const size_t n = 700;
    auto w = uniform(n), g = uniform(n), m = uniform(n), v = uniform(n);
    for (auto& x : v) x = std::fabs(x);
    double squares = 0;
    for (float x : g) squares += (double)x * x;
    auto shares = poisoned<double>(2);
    auto report = poisoned<float>(2);
    const float lr = 0.01f, b1 = 0.9f, b2 = 0.95f;
    const double keep = 0.99, eps = 1e-8;
    unsigned steps = 2;
    Rule rule;
    launch(2, [&] { sum_of_squares(g.data(), shares.data(), n); });
    launch(1, [&] { adamw_rule(shares.data(), 2, nullptr, 1.f, lr, b1, b2, &steps, &rule, report.data()); });
    same("gradient norm", report, {std::sqrt(squares), 1}, F32);
    const double rate = lr / (1 - std::pow(b1, 3)), root = 1 / std::sqrt(1 - std::pow(b2, 3));
    same("adamw rule", std::vector<float>{rule.clip, rule.rate, rule.root, rule.apply},
         {1 / std::sqrt(squares), rate, root, 1}, F32);
    std::vector<double> w_(n), m_(n), v_(n);
    for (size_t i = 0; i < n; i++) {
        double grad = g[i] * rule.clip;
        m_[i] = b1 * m[i] + (1 - b1) * grad;
        v_[i] = b2 * v[i] + (1 - b2) * grad * grad;
        w_[i] = w[i] * keep - rate * m_[i] / (std::sqrt(v_[i]) * root + eps);
    }
    auto copy = poisoned<bf16>(n);
    auto halves_of = [](const std::vector<float>& x) {
        std::vector<bf16> out;
        for (float value : x) out.push_back(to_bf16(value));
        return out;
    };
    auto w2 = w, g2 = g;
    auto m2 = halves_of(m), v2 = halves_of(v);
    launch(blocks(n), [&] {
        adamw_f32(w.data(), g.data(), m.data(), v.data(), copy.data(), &rule, &steps, n, 0, keep, b1, b2, eps);
    });
    launch(blocks(n), [&] {
        adamw_bf16(w2.data(), g2.data(), m2.data(), v2.data(), nullptr, &rule, &steps, n, 0, keep, b1, b2, eps);
    });
    same("adamw w", w, w_, F32);
    same("adamw m", m, m_, F32);
    same("adamw v", v, v_, F32);
    same("adamw bf16 copy", copy, w_, BF16);
    same("adamw clears g", g, std::vector<double>(n, 0.0), 0.0);
    same("adamw m in bf16", m2, m_, 3 * BF16);
    same("adamw v in bf16", v2, v_, 3 * BF16);
    const float infinite = 1.f / 0.f;
    launch(1, [&] { adamw_rule(shares.data(), 2, &infinite, 1.f, lr, b1, b2, &steps, &rule, report.data()); });
    g = uniform(n);
    launch(blocks(n), [&] {
        adamw_f32(w.data(), g.data(), m.data(), v.data(), copy.data(), &rule, &steps, n, 0, keep, b1, b2, eps);
    });
    same("a loss that is infinite", w, w_, F32);
    same("clears g and counts not", g, std::vector<double>(n, 0.0), steps == 3 ? 0.0 : -1.0);
}

static void check_moves() {
    const size_t n = 4, d = 90;
    auto x = halves(n * d), y = poisoned<bf16>(3 * d), dx = halves(n * d), sum = poisoned<bf16>(n * d);
    std::vector<unsigned> rows = {2, 0, 2}, starts = {0, 1, 1, 3, 3}, from = {1, 0, 2};
    launch(blocks(3 * d), [&] { gather_rows(x.data(), rows.data(), y.data(), 3 * d, d); });
    std::vector<double> y_, sum_, added(n * d);
    for (unsigned r : rows)
        for (size_t j = 0; j < d; j++) y_.push_back(value(x[r * d + j]));
    for (size_t i = 0; i < n * d; i++) sum_.push_back(value(x[i]) + value(dx[i])), added[i] = value(dx[i]);
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < d; j++) added[rows[i] * d + j] += value(y[i * d + j]);
    same("gather_rows", y, y_, 0.0);
    launch(blocks(n * d), [&] { add(x.data(), dx.data(), sum.data(), n * d); });
    same("add", sum, sum_, BF16);
    launch(blocks(n * d), [&] { scatter_rows(y.data(), starts.data(), from.data(), dx.data(), n * d, d, 1); });
    same("scatter_rows", dx, added, BF16);
}

// One head, both kernels: 70 rows in two documents.
static void check_attention() {
    const int n = 70, hd = 64, width = 3 * hd;
    const float scale = 0.125f;
    auto qkv = halves(n * width), dout = halves(n * hd);
    for (auto& x : qkv) x = to_bf16(0.5f * load(x));
    std::vector<unsigned> first(n), prefix(2 * n);
    for (int i = 0; i < n; i++) first[i] = i < 33 ? 0 : 33;
    std::vector<double> out_(n * hd), lse_(n), d_(n * width);
    for (int i = 0; i < n; i++) {
        std::vector<double> p(n);
        double sum = 0, delta = 0;
        for (int j = first[i]; j <= i; j++) {
            double s = 0;
            for (int c = 0; c < hd; c++) s += value(qkv[i * width + c]) * value(qkv[j * width + hd + c]);
            sum += p[j] = std::exp(s * scale);
        }
        lse_[i] = std::log(sum);
        for (int j = first[i]; j <= i; j++)
            for (int c = 0; c < hd; c++) out_[i * hd + c] += p[j] / sum * value(qkv[j * width + 2 * hd + c]);
        for (int c = 0; c < hd; c++) delta += out_[i * hd + c] * value(dout[i * hd + c]);
        for (int j = first[i]; j <= i; j++) {
            double dp = 0;
            for (int c = 0; c < hd; c++) dp += value(dout[i * hd + c]) * value(qkv[j * width + 2 * hd + c]);
            const double ds = p[j] / sum * (dp - delta) * scale;
            for (int c = 0; c < hd; c++) {
                d_[i * width + c] += ds * value(qkv[j * width + hd + c]);
                d_[j * width + hd + c] += ds * value(qkv[i * width + c]);
                d_[j * width + 2 * hd + c] += p[j] / sum * value(dout[i * hd + c]);
            }
        }
    }
    for (bool mma : {false, true}) {
        const int tile = mma ? 64 : 32, tiles = (n + tile - 1) / tile, threads = mma ? 128 : 256;
        std::vector<unsigned> starts = {0}, visits, key_starts = {0}, key_visits;
        for (int q = 0; q < tiles; starts.push_back(visits.size()), q++)
            for (int k = 0; k <= q; k++) visits.push_back(2 * k + 1);
        for (int k = 0; k < tiles; key_starts.push_back(key_visits.size()), k++)
            for (int q = k; q < tiles; q++) key_visits.push_back(2 * q + 1);
        auto out = poisoned<bf16>(n * hd), d = poisoned<bf16>(n * width);
        auto lse = poisoned<float>(n), delta = poisoned<float>(n);
        launch(tiles, [&] {
            (mma ? attention_forward_64 : attention_forward)(qkv.data(), out.data(), lse.data(), starts.data(), visits.data(),
                                                             first.data(), prefix.data(), n, 1, 1, hd, scale);
        }, 1, threads);
        launch(blocks(n), [&] { attention_delta(out.data(), dout.data(), delta.data(), n, 1, hd); });
        launch(tiles, [&] {
            (mma ? attention_dq_64 : attention_dq)(qkv.data(), dout.data(), lse.data(), delta.data(), d.data(), starts.data(),
                                                   visits.data(), first.data(), prefix.data(), n, 1, 1, hd, scale);
        }, 1, threads);
        launch(tiles, [&] {
            (mma ? attention_dkv_64 : attention_dkv)(qkv.data(), dout.data(), lse.data(), delta.data(), d.data(),
                                                     key_starts.data(), key_visits.data(), first.data(), prefix.data(), n, 1,
                                                     1, hd, scale);
        }, 1, threads);
        same(mma ? "attention mma out" : "attention out", out, out_, 2 * BF16);
        same(mma ? "attention mma lse" : "attention lse", lse, lse_, mma ? 1e-4 : F32);
        same(mma ? "attention mma d_qkv" : "attention d_qkv", d, d_, 4 * BF16);
    }
}

static void check_embedding() {
    const size_t n = 5, d = 70, vocabulary = 6;
    auto table = halves(vocabulary * d), dy = halves(n * d), y = poisoned<bf16>(n * d);
    auto dw = uniform(vocabulary * d);
    std::vector<unsigned> ids = {3, 5, 3, 0, 3}, distinct = {0, 3, 5}, starts = {0, 1, 4, 5}, rows = {3, 0, 2, 4, 1};
    std::vector<double> y_(n * d), dw_(dw.begin(), dw.end());
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++) {
            y_[i * d + j] = value(table[ids[i] * d + j]);
            dw_[ids[i] * d + j] += value(dy[i * d + j]);
        }
    launch(blocks(n * d), [&] { embedding(table.data(), ids.data(), y.data(), n * d, d); });
    same("embedding", y, y_, 0.0);
    launch(blocks(3 * d), [&] {
        embedding_backward(dy.data(), distinct.data(), starts.data(), rows.data(), dw.data(), 3 * d, d);
    });
    same("embedding backward", dw, dw_, F32);
}

int main() {
    check_embedding();
    check_rms_norm();
    check_swiglu();
    check_rope();
    check_cross_entropy();
    check_adamw();
    check_moves();
    check_attention();
    std::printf(failures ? "%d FAILED\n" : "all kernels agree\n", failures);
    return failures != 0;
}
