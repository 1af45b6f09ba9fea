/* 04_host_threads MODEL - the program's own threads, here OpenMP's, in place of the library's.
 *
 * An application that has a pool already should not have a second one beside it, which would fight for the same
 * cores. mf_executor_options.parallel_for lends the executor a loop; it may even run the parts one by one, as this
 * program does where it is compiled without OpenMP. The text is the same. */
#include <matformer.h>
#include <stdio.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static void parallel_for(void *user, uint32_t n, mf_task task, void *task_user)
{
    (void)user;
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < (int)n; i++)
        task(task_user, (uint32_t)i);
}

static uint32_t host_threads(void)
{
#ifdef _OPENMP
    return (uint32_t)omp_get_max_threads();
#else
    return 1;
#endif
}

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_submodel *view = NULL;
    mf_executor *executor = NULL;
    mf_executor_options threads = MF_EXECUTOR_OPTIONS_INIT;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    threads.n_thread = host_threads();
    threads.parallel_for = parallel_for;
    options.prompt = "Once upon a time";
    options.max_tokens = 64;
    options.on_token = print;
    if (mf_model_open(&model, argv[1], NULL, &error) == MF_OK &&
        mf_extract_submodel(&view, model, NULL, &error) == MF_OK &&
        mf_executor_create(&executor, model, &threads, &error) == MF_OK)
        mf_generate(executor, NULL, view, &options, NULL, &error);
    printf("\n");
    if (error.status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    return error.status != MF_OK;
}
