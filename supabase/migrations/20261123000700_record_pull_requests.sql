-- Users may not write `tasks`; this is how the API, acting as one, notes the pull request that it made of an own task.

-- PT404: no such task of the caller's. PT400: that is no pull request.
create function public.record_pull_request(p_task_id bigint, p_branch text, p_number integer, p_url text) returns void
language plpgsql security definer set search_path = '' as $$
begin
    -- The dashboard makes a link of it, so nothing but an address of the web may get there.
    if coalesce(p_number, 0) < 1 or coalesce(p_branch, '') = '' or length(p_branch) > 255 or length(p_url) > 500
        or coalesce(p_url, '') !~ '^https?://[^[:space:]"<>]+/pull/[0-9]+$' then
        raise sqlstate 'PT400' using message = 'bad_pull_request';
    end if;
    update public.tasks set pr_branch = p_branch, pr_number = p_number, pr_url = p_url
    where id = p_task_id and user_id = auth.uid();
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
end $$;

revoke all on function public.record_pull_request(bigint, text, integer, text) from public, anon, authenticated;
grant execute on function public.record_pull_request(bigint, text, integer, text) to authenticated;
