/* test_train_threads.c - the threads of a trainer, by the kernels of inference. Made for ThreadSanitizer, which does
 * not see into BLIS. */
#include "train_fixture.h"

#include "cpu.h"

static mf_trainer *after_two_joint_steps(const golden_case *c, uint32_t n_thread)
{
    mf_trainer_options options = c->options;
    mfk_table table;
    options.n_thread = n_thread;
    options.objective = MF_OBJECTIVE_JOINT;
    mf_trainer *t = make_trainer(&c->model, &options);
    mfk_table_init(&table, mfk_cpu_detect());
    t->tasks.kernel = table.gemm_f32;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(step(t).n_granularity, c->model.n_granularity);
    return t;
}

Test(train_threads, joint_steps_on_three_threads_are_those_of_one)
{
    golden_case *c = golden_open("rms_erf_grouped_nested_heads");
    mf_trainer *one = after_two_joint_steps(c, 1), *three = after_two_joint_steps(c, 3);
    cr_assert(memcmp(one->weights, three->weights, one->layout.n_float * sizeof(float)) == 0);
    mf_trainer_close(one);
    mf_trainer_close(three);
    golden_close(c);
}
