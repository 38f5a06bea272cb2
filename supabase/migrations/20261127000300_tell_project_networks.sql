-- What a run's owner wants its programs to find and to reach, unchecked, as text: nobody knows whether it can be read.
-- `preferences` is the user's, `project_env` and `project_network` are the task's project's; of what is longer than any may
-- be, the beginning, which no reader takes.
create or replace function public.run_environment(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'preferences', u.preferences::text,
        'project_env', left((p.settings -> 'env')::text, 131072),
        'project_network', left((p.settings -> 'network')::text, 32768))
    from public.runs r
        join public.users u on u.id = r.user_id
        join public.tasks t on t.id = r.task_id
        left join public.projects p on p.id = t.project_id and p.user_id = r.user_id
    where r.id = p_run_id
$$;
