-- Limits that hold in the transaction that starts a run: how many runs of one user are active, and how many were started
-- within an hour. And idempotency keys that notice when something else is asked under them.

alter table public.run_limits add column started_per_hour integer not null default 100
    constraint run_limits_started_check check (started_per_hour > 0);
comment on column public.run_limits.started_per_hour is 'runs that one user may start within an hour; more are refused (PT429)';

-- When somebody started a run. Not counted in `runs`: who deletes a project deletes its runs, and would start anew.
create table public.run_starts (
    user_id uuid not null constraint run_starts_user_id_fkey references public.users (id) on delete cascade,
    at timestamptz not null default now()
);
create index idx_run_starts_user_id on public.run_starts (user_id, at desc);
alter table public.run_starts enable row level security;
revoke all on public.run_starts from anon, authenticated;
grant all on public.run_starts to service_role;

alter table public.runs add column request_hash text;
comment on column public.runs.request_hash is 'what was asked under the idempotency key; another request under it is refused (PT409)';

-- Refuses one start more than a user may make, and counts the one that it lets through. Details of the refusal, as JSON:
-- limit, current, retry_after_s.
create function public.admit_start(p_user uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_limits public.run_limits;
    v_active integer;
    v_started integer;
    v_free_at timestamptz;
begin
    select * into strict v_limits from public.run_limits;
    select count(*) into v_active from public.runs r where r.user_id = p_user and r.status in ('queued', 'running');
    if v_active >= v_limits.active_per_user then
        raise sqlstate 'PT429' using message = 'too_many_active_runs', detail = jsonb_build_object(
            'limit', v_limits.active_per_user, 'current', v_active, 'retry_after_s', 30)::text;
    end if;
    delete from public.run_starts s where s.user_id = p_user and s.at <= now() - interval '1 hour';
    select count(*) into v_started from public.run_starts s where s.user_id = p_user;
    if v_started >= v_limits.started_per_hour then
        -- The next one is free when the oldest of the last `started_per_hour` starts is an hour old.
        select s.at + interval '1 hour' into v_free_at from public.run_starts s where s.user_id = p_user
        order by s.at desc offset v_limits.started_per_hour - 1 limit 1;
        raise sqlstate 'PT429' using message = 'too_many_starts', detail = jsonb_build_object(
            'limit', v_limits.started_per_hour, 'current', v_started,
            'retry_after_s', greatest(1, ceil(extract(epoch from v_free_at - now()))::integer))::text;
    end if;
    insert into public.run_starts (user_id) values (p_user);
end $$;

create or replace function public.insert_run(
    p_task_id bigint, p_kind text, p_prompt text, p_agent text, p_model text,
    p_credential jsonb, p_idempotency_key text, p_trace_id text
) returns public.runs
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_run public.runs;
begin
    -- Serialises one user's starts, so that two at once cannot both pass the limits.
    perform pg_advisory_xact_lock(hashtextextended('runs of ' || v_user, 0));
    perform public.admit_start(v_user);
    if p_credential is not null then
        insert into public.user_credentials (id, user_id, kind, ciphertext, key_id, alg, hint, expires_at)
        values (
            (p_credential ->> 'id')::uuid, v_user, p_credential ->> 'kind', p_credential ->> 'ciphertext',
            p_credential ->> 'key_id', p_credential ->> 'alg', p_credential ->> 'hint', now() + interval '2 days');
    end if;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, git_credential_id, idempotency_key, trace_id)
    values (
        p_task_id, v_user, p_kind, p_prompt, p_agent, p_model,
        (p_credential ->> 'id')::uuid, p_idempotency_key, p_trace_id)
    returning * into v_run;
    perform public.append_events(p_task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return v_run;
end $$;

-- Replaced rather than overloaded: PostgREST must find exactly one function of a name for the arguments it is given.
drop function public.create_task(text, text, text, text, bigint, text, jsonb, text, text);

-- A task with its first run, its sealed git token and its first event. A repeated idempotency key returns what the first
-- call made. PT404: the project is not the caller's. PT409: another request was made under this key. PT429: a limit.
create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_run public.runs;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_project_id is not null
        and not exists (select 1 from public.projects p where p.id = p_project_id and p.user_id = v_user) then
        raise sqlstate 'PT404' using message = 'project_not_found';
    end if;
    insert into public.tasks (user_id, project_id, repo_url, target_branch, agent, chat_messages)
    values (
        v_user, p_project_id, p_repo_url, p_branch, p_agent,
        jsonb_build_array(public.chat_message('user', p_prompt)))
    returning * into v_task;
    v_run := public.insert_run(
        v_task.id, 'first', p_prompt, p_agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    update public.runs set request_hash = p_request_hash where id = v_run.id;
    return jsonb_build_object('task_id', v_task.id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- Appends one chat message in one statement, so that two at once both stay. PT404: no such task of the caller's. PT409: the
-- chat has reached 2 MB; it is read whole by whoever shows the task.
create or replace function public.append_chat_message(p_task_id bigint, p_role text, p_content text) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
begin
    if p_role not in ('user', 'assistant') or coalesce(p_content, '') = '' or length(p_content) > 100000 then
        raise sqlstate 'PT400' using message = 'bad_chat_message';
    end if;
    update public.tasks set chat_messages = coalesce(chat_messages, '[]'::jsonb)
        || jsonb_build_array(public.chat_message(p_role, p_content))
    where id = p_task_id and user_id = v_user and octet_length(coalesce(chat_messages, '[]'::jsonb)::text) < 2000000;
    if found then
        return;
    elsif exists (select 1 from public.tasks where id = p_task_id and user_id = v_user) then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    raise sqlstate 'PT404' using message = 'task_not_found';
end $$;

revoke all on function
    public.admit_start(uuid),
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text)
    from public, anon, authenticated;
grant execute on function public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text) to authenticated;
