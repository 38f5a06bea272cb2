-- Lists that stay fast whatever the tasks hold: a page is found through an index, and nothing that an agent produced (diff,
-- patch, contents of files) is read. Row-level security decides here too: the functions run as their caller.

-- They give a page in its order, and what they include counts tasks without reading a row. The names stay those of the wire
-- contract.
drop index public.idx_tasks_user_id;
create index idx_tasks_user_id on public.tasks (user_id, created_at desc, id desc) include (project_id, status);
drop index public.idx_tasks_project_id;
create index idx_tasks_project_id on public.tasks (project_id, created_at desc, id desc) include (user_id, status);

-- A page of the caller's tasks, newest first, whether more follow, and how many there are in all:
-- {"tasks": [...], "more": true, "total": n}. A page begins after the task that p_after_at and p_after_id name. It has
-- p_limit tasks or, where these are more than Lambda can send (6 MB), fewer, but at least one. Rows have every key of the
-- wire contract; what is heavy is empty.
create function public.list_tasks(
    p_limit integer, p_after_at timestamptz default null, p_after_id bigint default null,
    p_status public.task_status default null, p_project_id bigint default null, p_search text default null
) returns jsonb
language plpgsql stable set search_path = ''
-- Each filter is there or not: a plan that is made for all cases could not look a page's position up in an index.
set plan_cache_mode = force_custom_plan as $$
declare
    v_user uuid := auth.uid();
    v_limit integer := least(p_limit, 1000);
    v_search text := lower(p_search);
    v_answer jsonb;
begin
    with matching as not materialized (
        select * from public.tasks
        where user_id = v_user
            and (p_status is null or status = p_status)
            and (p_project_id is null or project_id = p_project_id)
            and (p_search is null or exists (
                select 1 from jsonb_array_elements(chat_messages) as m (message)
                where m.message ->> 'role' = 'user' and position(v_search in lower(m.message ->> 'content')) > 0))
    ), page as (
        select created_at, id, jsonb_build_object(
            'id', id, 'user_id', user_id, 'project_id', project_id, 'status', status, 'agent', agent,
            'repo_url', repo_url, 'target_branch', target_branch, 'pr_branch', pr_branch,
            'container_id', container_id, 'commit_hash', commit_hash, 'pr_number', pr_number, 'pr_url', pr_url,
            'git_diff', null, 'git_patch', null, 'changed_files', changed_files, 'error', error,
            'chat_messages', chat_messages, 'execution_metadata', '{}'::jsonb, 'created_at', created_at,
            'updated_at', updated_at, 'started_at', started_at, 'completed_at', completed_at,
            'is_test_data', is_test_data, 'has_patch', has_patch
        ) as task
        from matching
        where p_after_id is null or (created_at, id) < (p_after_at, p_after_id)
        order by created_at desc, id desc
        limit v_limit + 1
    ), numbered as (
        select task, row_number() over w as n, sum(octet_length(task::text)) over w as bytes
        from page
        window w as (order by created_at desc, id desc)
    )
    select jsonb_build_object(
        'tasks', coalesce(jsonb_agg(task order by n) filter (where fits), '[]'::jsonb),
        'more', coalesce(not bool_and(fits), false),
        'total', (select count(*) from matching)
    ) into v_answer
    from (select task, n, n = 1 or (n <= v_limit and bytes <= 6000000) as fits from numbered) as r;
    return v_answer;
end $$;

-- The caller's projects, newest first, or the one that is named: an array of rows, each with the number of its tasks.
create function public.list_projects(p_id bigint default null) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(p) || to_jsonb(c) order by p.created_at desc, p.id desc), '[]'::jsonb)
    from public.projects p
    cross join lateral (
        select count(*) as task_count,
            count(*) filter (where t.status = 'completed') as completed_tasks,
            count(*) filter (where t.status in ('pending', 'running')) as active_tasks
        from public.tasks t where t.project_id = p.id and t.user_id = p.user_id
    ) c
    where p.user_id = (select auth.uid()) and (p_id is null or p.id = p_id)
$$;

revoke all on function
    public.list_tasks(integer, timestamptz, bigint, public.task_status, bigint, text),
    public.list_projects(bigint)
    from public, anon, authenticated;
grant execute on function
    public.list_tasks(integer, timestamptz, bigint, public.task_status, bigint, text),
    public.list_projects(bigint)
    to authenticated;
