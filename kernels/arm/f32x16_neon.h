/* f32x16_neon.h - sixteen f32 as four NEON registers. The same names as x86/f32x16_avx512.h. */
#ifndef MFK_F32X16_H
#define MFK_F32X16_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define MFK_ISA(name) name##_neon
#define MFK_INLINE static inline __attribute__((always_inline))

/* Not float32x4x4_t, whose registers GCC wants to be consecutive. */
typedef struct f32x16 {
    float32x4_t q[4];
} f32x16;
typedef struct i32x16 {
    int32x4_t q[4];
} i32x16;

MFK_INLINE f32x16 f32x16_of(float32x4_t q0, float32x4_t q1, float32x4_t q2, float32x4_t q3)
{
    f32x16 v = { { q0, q1, q2, q3 } };
    return v;
}

MFK_INLINE i32x16 i32x16_of(int32x4_t q0, int32x4_t q1, int32x4_t q2, int32x4_t q3)
{
    i32x16 v = { { q0, q1, q2, q3 } };
    return v;
}

/* f of each register. */
#define EACH(f, a) f((a).q[0]), f((a).q[1]), f((a).q[2]), f((a).q[3])
#define EACH2(f, a, b) f((a).q[0], (b).q[0]), f((a).q[1], (b).q[1]), f((a).q[2], (b).q[2]), f((a).q[3], (b).q[3])

MFK_INLINE f32x16 f32x16_set(float x)
{
    float32x4_t q = vdupq_n_f32(x);
    return f32x16_of(q, q, q, q);
}

MFK_INLINE f32x16 f32x16_load(const float *p)
{
    return f32x16_of(vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12));
}

MFK_INLINE void f32x16_store(float *p, f32x16 v)
{
    vst1q_f32(p, v.q[0]);
    vst1q_f32(p + 4, v.q[1]);
    vst1q_f32(p + 8, v.q[2]);
    vst1q_f32(p + 12, v.q[3]);
}

/* The first n of four lanes, zeros in the others. */
MFK_INLINE float32x4_t load_first_4(const float *p, size_t n)
{
    float32x4_t v = vdupq_n_f32(0.0f);
    if (n >= 4) return vld1q_f32(p);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
}

MFK_INLINE void store_first_4(float *p, float32x4_t v, size_t n)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
}

/* Of n lanes, those that are left from lane `begin`. */
MFK_INLINE size_t lanes_from(size_t n, size_t begin)
{
    return n > begin ? n - begin : 0;
}

/* The first n lanes, zeros in the others; memory behind them is not touched. */
MFK_INLINE f32x16 f32x16_load_first(const float *p, size_t n)
{
    return f32x16_of(load_first_4(p, n), load_first_4(p + 4, lanes_from(n, 4)), load_first_4(p + 8, lanes_from(n, 8)),
                     load_first_4(p + 12, lanes_from(n, 12)));
}

MFK_INLINE void f32x16_store_first(float *p, f32x16 v, size_t n)
{
    store_first_4(p, v.q[0], n);
    store_first_4(p + 4, v.q[1], lanes_from(n, 4));
    store_first_4(p + 8, v.q[2], lanes_from(n, 8));
    store_first_4(p + 12, v.q[3], lanes_from(n, 12));
}

MFK_INLINE float32x4_t keep_4(float32x4_t v, size_t begin, size_t end, float32x4_t other, uint32_t first)
{
    static const uint32_t four[] = { 0, 1, 2, 3 };
    uint32x4_t lane = vaddq_u32(vld1q_u32(four), vdupq_n_u32(first));
    uint32x4_t from = vcgeq_u32(lane, vdupq_n_u32((uint32_t)begin)), to = vcltq_u32(lane, vdupq_n_u32((uint32_t)end));
    return vbslq_f32(vandq_u32(from, to), v, other);
}

/* Lanes [begin, end) of v, `other` elsewhere. */
MFK_INLINE f32x16 f32x16_keep(f32x16 v, size_t begin, size_t end, f32x16 other)
{
    return f32x16_of(keep_4(v.q[0], begin, end, other.q[0], 0), keep_4(v.q[1], begin, end, other.q[1], 4),
                     keep_4(v.q[2], begin, end, other.q[2], 8), keep_4(v.q[3], begin, end, other.q[3], 12));
}

/* Not fmax and fmin, which have a NaN and the sign of zero their own way. */
MFK_INLINE float32x4_t max_4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

MFK_INLINE float32x4_t min_4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

#define F32X16_BINARY(name, intrinsic)                  \
    MFK_INLINE f32x16 f32x16_##name(f32x16 a, f32x16 b) \
    {                                                   \
        return f32x16_of(EACH2(intrinsic, a, b));       \
    }
F32X16_BINARY(add, vaddq_f32)
F32X16_BINARY(sub, vsubq_f32)
F32X16_BINARY(mul, vmulq_f32)
F32X16_BINARY(div, vdivq_f32)
F32X16_BINARY(max, max_4) /* a > b ? a : b */
F32X16_BINARY(min, min_4) /* a < b ? a : b */

MFK_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return f32x16_of(vfmaq_f32(c.q[0], a.q[0], b.q[0]), vfmaq_f32(c.q[1], a.q[1], b.q[1]),
                     vfmaq_f32(c.q[2], a.q[2], b.q[2]), vfmaq_f32(c.q[3], a.q[3], b.q[3]));
}

/* a * b - c */
MFK_INLINE f32x16 f32x16_fms(f32x16 a, f32x16 b, f32x16 c)
{
    return f32x16_fma(a, b, f32x16_of(EACH(vnegq_f32, c)));
}

MFK_INLINE float32x4_t select_less_4(float32x4_t a, float32x4_t b, float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcltq_f32(a, b), x, y);
}

/* a < b ? x : y */
MFK_INLINE f32x16 f32x16_select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y)
{
    return f32x16_of(select_less_4(a.q[0], b.q[0], x.q[0], y.q[0]), select_less_4(a.q[1], b.q[1], x.q[1], y.q[1]),
                     select_less_4(a.q[2], b.q[2], x.q[2], y.q[2]), select_less_4(a.q[3], b.q[3], x.q[3], y.q[3]));
}

MFK_INLINE i32x16 f32x16_bits(f32x16 v)
{
    return i32x16_of(EACH(vreinterpretq_s32_f32, v));
}

MFK_INLINE f32x16 f32x16_of_bits(i32x16 v)
{
    return f32x16_of(EACH(vreinterpretq_f32_s32, v));
}

MFK_INLINE i32x16 i32x16_set(int32_t x)
{
    int32x4_t q = vdupq_n_s32(x);
    return i32x16_of(q, q, q, q);
}

#define I32X16_BINARY(name, intrinsic)                  \
    MFK_INLINE i32x16 i32x16_##name(i32x16 a, i32x16 b) \
    {                                                   \
        return i32x16_of(EACH2(intrinsic, a, b));       \
    }
I32X16_BINARY(add, vaddq_s32)
I32X16_BINARY(sub, vsubq_s32)
I32X16_BINARY(and, vandq_s32)
I32X16_BINARY(or, vorrq_s32)
I32X16_BINARY(max, vmaxq_s32)

#define i32x16_shift_left(v, n) \
    i32x16_of(vshlq_n_s32((v).q[0], n), vshlq_n_s32((v).q[1], n), vshlq_n_s32((v).q[2], n), vshlq_n_s32((v).q[3], n))
#define i32x16_shift_right(v, n) \
    i32x16_of(vshrq_n_s32((v).q[0], n), vshrq_n_s32((v).q[1], n), vshrq_n_s32((v).q[2], n), vshrq_n_s32((v).q[3], n))

MFK_INLINE int32x4_t widen_4(uint16x4_t v)
{
    return vreinterpretq_s32_u32(vshll_n_u16(v, 16));
}

/* Sixteen consecutive bf16, widened. */
MFK_INLINE f32x16 f32x16_load_bf16(const uint16_t *p)
{
    uint16x8_t lo = vld1q_u16(p), hi = vld1q_u16(p + 8);
    return f32x16_of_bits(i32x16_of(widen_4(vget_low_u16(lo)), widen_4(vget_high_u16(lo)), widen_4(vget_low_u16(hi)),
                                    widen_4(vget_high_u16(hi))));
}

MFK_INLINE float32x4_t widen_f16_4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

/* Sixteen consecutive f16, widened. */
MFK_INLINE f32x16 f32x16_load_f16(const uint16_t *p)
{
    return f32x16_of(widen_f16_4(p), widen_f16_4(p + 4), widen_f16_4(p + 8), widen_f16_4(p + 12));
}

MFK_INLINE f32x16 f32x16_of_i32(i32x16 v)
{
    return f32x16_of(EACH(vcvtq_f32_s32, v));
}

/* To nearest even. */
MFK_INLINE i32x16 i32x16_of_f32(f32x16 v)
{
    return i32x16_of(EACH(vcvtnq_s32_f32, v));
}

MFK_INLINE int32_t i32x16_tree_sum(i32x16 v)
{
    return vaddvq_s32(vaddq_s32(vaddq_s32(v.q[0], v.q[2]), vaddq_s32(v.q[1], v.q[3])));
}

MFK_INLINE int32_t i32x16_tree_max(i32x16 v)
{
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(v.q[0], v.q[2]), vmaxq_s32(v.q[1], v.q[3])));
}

/* Sixteen signed bytes, widened. */
MFK_INLINE i32x16 i32x16_load_bytes(const void *p)
{
    int8x16_t bytes = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return i32x16_of(vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
                     vmovl_high_s16(high));
}

/* Sixteen lanes that fit a byte. */
MFK_INLINE void i32x16_store_bytes(int8_t *p, i32x16 v)
{
    int16x8_t low = vcombine_s16(vmovn_s32(v.q[0]), vmovn_s32(v.q[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(v.q[2]), vmovn_s32(v.q[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

/* Sixteen 32-bit lanes whose high halves are zero. */
MFK_INLINE void i32x16_store_low_halves(uint16_t *p, i32x16 v)
{
    vst1q_u16(p, vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(v.q[0]), vmovn_s32(v.q[1]))));
    vst1q_u16(p + 8, vreinterpretq_u16_s16(vcombine_s16(vmovn_s32(v.q[2]), vmovn_s32(v.q[3]))));
}

MFK_INLINE int32x4_t select_nan_4(float32x4_t x, int32x4_t a, int32x4_t b)
{
    return vbslq_s32(vceqq_f32(x, x), b, a);
}

/* x is a NaN ? a : b */
MFK_INLINE i32x16 i32x16_select_nan(f32x16 x, i32x16 a, i32x16 b)
{
    return i32x16_of(select_nan_4(x.q[0], a.q[0], b.q[0]), select_nan_4(x.q[1], a.q[1], b.q[1]),
                     select_nan_4(x.q[2], a.q[2], b.q[2]), select_nan_4(x.q[3], a.q[3], b.q[3]));
}

MFK_INLINE float f32x16_first(f32x16 v)
{
    return vgetq_lane_f32(v.q[0], 0);
}

MFK_INLINE float f32x16_tree_sum(f32x16 v)
{
    float32x4_t y = vaddq_f32(vaddq_f32(v.q[0], v.q[2]), vaddq_f32(v.q[1], v.q[3]));
    float32x2_t x = vadd_f32(vget_low_f32(y), vget_high_f32(y));
    return vget_lane_f32(x, 0) + vget_lane_f32(x, 1);
}

MFK_INLINE float f32x16_tree_max(f32x16 v) /* b > a ? b : a, as the tree has it */
{
    float32x4_t y = max_4(max_4(v.q[3], v.q[1]), max_4(v.q[2], v.q[0]));
    float32x4_t x = max_4(vextq_f32(y, y, 2), y);
    return vgetq_lane_f32(max_4(vdupq_laneq_f32(x, 1), x), 0);
}

MFK_INLINE f32x16 transposed(f32x16 v)
{
    float32x4_t even0 = vzip1q_f32(v.q[0], v.q[2]), even1 = vzip2q_f32(v.q[0], v.q[2]); /* of columns 0 1, and 2 3 */
    float32x4_t odd0 = vzip1q_f32(v.q[1], v.q[3]), odd1 = vzip2q_f32(v.q[1], v.q[3]);
    return f32x16_of(vzip1q_f32(even0, odd0), vzip2q_f32(even0, odd0), vzip1q_f32(even1, odd1),
                     vzip2q_f32(even1, odd1));
}

/* Rows of `from` become columns of `to`. */
MFK_INLINE void transpose_4x4(const float *from, size_t from_floats, float *to, size_t to_floats)
{
    f32x16 columns = transposed(f32x16_of(vld1q_f32(from), vld1q_f32(from + from_floats),
                                          vld1q_f32(from + 2 * from_floats), vld1q_f32(from + 3 * from_floats)));
    for (size_t i = 0; i < 4; i++)
        vst1q_f32(to + i * to_floats, columns.q[i]);
}

#endif
